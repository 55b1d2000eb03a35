// SPDX-License-Identifier: Apache-2.0
//! One packet through each program by `BPF_PROG_TEST_RUN`, without a link and without traffic.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TestRun, TestRunOptions, Xdp};
use llb_common::counters::{LINK_COUNTERS_CAPACITY, LINK_COUNTERS_MAP, LinkCounters};
use llb_common::flow_table::lines;
use llb_common::maps;
use llb_common::programs::{TC_INGRESS_PROGRAM, XDP_PROGRAM};

use crate::object;
use crate::programs::{Hook, Program};

/// Verdicts, from linux/bpf.h and linux/pkt_cls.h.
const XDP_PASS: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;

/// An Ethernet frame: IPv4, UDP from 192.0.2.10:4000 to 192.0.2.20:53, `llb`.
const FRAME: [u8; 45] = [
    0x02, 0, 0, 0, 0, 0x20, 0x02, 0, 0, 0, 0, 0x10, 0x08, 0x00, // Ethernet
    0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17, 0xb6, 0xae, 192, 0, 2, 10, 192, 0, 2, 20, // IPv4
    0x0f, 0xa0, 0, 53, 0, 11, 0, 0, // UDP
    b'l', b'l', b'b',
];

/// The kernel refuses to test a frame without data after its Ethernet header.
const SHORTEST: usize = 15;

/// Upper limit of the memory that one million connections may take.
const BYTES_OF_A_MILLION: u64 = 250_000_000;

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_million_connections_take_less_than_250_megabytes() {
    // The kernel allocates all of it when the map is created.
    let flows = [maps::FLOWS.name, maps::REPLIES.name];
    let program = Program::load(Hook::Xdp, &flows.map(|map| (map, lines(1_000_000))));
    let bytes = flows.map(|map| program.bytes_of_table(map));
    println!("{bytes:?}");
    assert!(bytes.iter().sum::<u64>() < BYTES_OF_A_MILLION, "{bytes:?}");
    assert!(bytes.iter().all(|bytes| *bytes > 64_000_000), "{bytes:?}: of what?");
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn xdp_passes_and_counts_every_frame() {
    let mut ebpf = Ebpf::load(&object().unwrap()).unwrap();
    let program: &mut Xdp = ebpf.program_mut(XDP_PROGRAM).unwrap().try_into().unwrap();
    program.load().unwrap();
    check(&mut ebpf, XDP_PASS, |ebpf, options| {
        let program: &Xdp = ebpf.program(XDP_PROGRAM).unwrap().try_into().unwrap();
        let result = program.test_run(options)?;
        Ok((result.return_value, result.data_size_out))
    });
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn tc_ingress_counts_every_frame_and_leaves_the_verdict_to_others() {
    let mut ebpf = Ebpf::load(&object().unwrap()).unwrap();
    let program: &mut SchedClassifier = ebpf.program_mut(TC_INGRESS_PROGRAM).unwrap().try_into().unwrap();
    program.load().unwrap();
    check(&mut ebpf, TC_ACT_UNSPEC, |ebpf, options| {
        let program: &SchedClassifier = ebpf.program(TC_INGRESS_PROGRAM).unwrap().try_into().unwrap();
        let result = program.test_run(options)?;
        Ok((result.return_value, result.data_size_out))
    });
}

/// The verdict, and the length of the resulting frame.
type Outcome = Result<(u32, u32), ProgramError>;

/// The rows of the table: every frame passes unchanged, and is counted once with its length.
fn check(ebpf: &mut Ebpf, verdict: u32, run: impl Fn(&Ebpf, TestRunOptions<'_>) -> Outcome) {
    let mut jumbo = [0xa5; 1514];
    jumbo[..FRAME.len()].copy_from_slice(&FRAME);
    let mut no_protocol_we_know = FRAME;
    no_protocol_we_know[12..14].copy_from_slice(&[0x88, 0xcc]);
    let rows: [(&str, &[u8]); 4] = [
        ("IPv4", &FRAME),
        ("full", &jumbo),
        ("LLDP", &no_protocol_we_know),
        ("shortest", &no_protocol_we_know[..SHORTEST]),
    ];
    let mut expected = LinkCounters::default();
    assert_eq!(counters(ebpf), expected);
    for (name, frame) in rows {
        let mut out = vec![0; 2048];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let (found, length) = run(ebpf, options).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, verdict, "{name}");
        assert_eq!(&out[..length as usize], frame, "{name}: changed");
        expected = expected.plus(LinkCounters { packets: 1, bytes: frame.len() as u64 });
        assert_eq!(counters(ebpf), expected, "{name}");
    }
}

fn counters(ebpf: &Ebpf) -> LinkCounters {
    let map: PerCpuArray<&MapData, [u64; 2]> = ebpf.map(LINK_COUNTERS_MAP).unwrap().try_into().unwrap();
    assert_eq!(map.len() as usize, LINK_COUNTERS_CAPACITY);
    let values = map.get(&0, 0).unwrap();
    values
        .iter()
        .map(|&[packets, bytes]| LinkCounters { packets, bytes })
        .fold(LinkCounters::default(), LinkCounters::plus)
}
