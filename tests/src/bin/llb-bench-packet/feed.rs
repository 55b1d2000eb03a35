// SPDX-License-Identifier: Apache-2.0
//! Feeds packets of many flows in turn to the programs, by means of the object file `bench`, and reads the
//! kernel's measurement of their time.

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{Program, ProgramFd, TestRun as _, TestRunOptions};
use bytemuck::{Pod, Zeroable, bytes_of};
use llb_common::conntrack::ACK;
use llb_common::frontend::TCP;

use crate::frames::Frame;
use crate::object_file::read;
use crate::world::{BACKEND_PORT, CLIENT_MAC, Family, Flow, Hook, LB_MAC, Mode, World, address, load, raw};

/// Bytes at the start of a frame that are written again before each run: all that the programs change.
const WRITTEN_BYTES: usize = 80;

/// Smallest number of packets before those that are counted. With more flows it is one for each, so that the
/// caches are in the state that this traffic leaves.
const WARM_UP: u32 = 2_000;

/// The value in the map `FEED` of the object file `bench`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Feed {
    frame: [[u8; 8]; WRITTEN_BYTES / 8],
    flows: u32,
    turn: u32,
    address_at: u16,
    port_at: u16,
    is_reply: u32,
}

/// One entry of the map `FLOWS_IN_TURN`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct FlowBytes {
    client: [u8; 4],
    backend: [u8; 4],
    port: u16,
    padding: u16,
}

impl Feed {
    /// Packets of one mode, from the flow number `turn` on.
    pub(crate) fn new(world: &World, mode: Mode, flows: u32, turn: u32) -> Self {
        let flow = Flow::in_turn(0, flows);
        let first = Frame {
            macs: (LB_MAC, CLIENT_MAC),
            from: (address(world.family, flow.client_bytes()), 0),
            to: (world.vip(), mode.vip_port()),
            protocol: TCP,
            tcp_flags: ACK,
            numbers: (1, 2),
            time_to_live: 64,
            payload: b"of some length, as they are".to_vec(),
        };
        let frame = match mode {
            Mode::NatReply => {
                let from = (address(world.family, flow.backend_bytes()), BACKEND_PORT);
                Frame { from, to: (world.snat(), 0), ..first }
            }
            _ => first,
        };
        let (source, ports) = if world.family == Family::V4 { (26..30, 34) } else { (22..38, 54) };
        let is_reply = mode == Mode::NatReply;
        Self {
            frame: bytemuck::pod_read_unaligned(&frame.bytes()[..WRITTEN_BYTES]),
            flows,
            turn: turn % flows,
            address_at: source.end - 4,
            port_at: if is_reply { ports + 2 } else { ports },
            is_reply: u32::from(is_reply),
        }
    }
}

/// The programs of the object file `bench` for one hook.
pub(crate) struct Feeder {
    ebpf: Ebpf,
    feed: &'static str,
    swap: &'static str,
}

impl Feeder {
    pub(crate) fn new(hook: Hook, flows: u32) -> Result<Self> {
        let mut ebpf = Ebpf::load(&read("ebpf-bench/bench.o")?)?;
        let (feed, swap) = match hook {
            Hook::Xdp => ("llb_feed_xdp", "llb_swap_xdp"),
            Hook::Tc => ("llb_feed_tc", "llb_swap_tc"),
        };
        for name in [feed, swap] {
            load(ebpf.program_mut(name).context("no such program")?)?;
        }
        let map = ebpf.map_mut("FLOWS_IN_TURN").context("no such map")?;
        let mut map: Array<&mut MapData, [u8; 12]> = map.try_into()?;
        for turn in 0..flows {
            let flow = Flow::in_turn(turn, flows);
            let bytes = FlowBytes {
                client: flow.client_bytes(),
                backend: flow.backend_bytes(),
                port: flow.port().wire(),
                padding: 0,
            };
            map.set(turn, &raw(bytes_of(&bytes)), 0)?;
        }
        Ok(Self { ebpf, feed, swap })
    }

    /// Selects the program that gets the packets. With `None` it is the one that only swaps the addresses.
    pub(crate) fn choose(&mut self, program: Option<&Program>) -> Result<()> {
        let swap = self.ebpf.program(self.swap).context("no such program")?;
        let fd: ProgramFd = program.unwrap_or(swap).fd()?.try_clone()?;
        let map = self.ebpf.map_mut("MEASURED").context("no such map")?;
        Ok(ProgramArray::try_from(map)?.set(0, &fd, 0)?)
    }

    /// Nanoseconds for each packet.
    pub(crate) fn run(&mut self, feed: &Feed, packets: u32) -> Result<f64> {
        let map = self.ebpf.map_mut("FEED").context("no such map")?;
        let mut map: Array<&mut MapData, [u8; size_of::<Feed>()]> = map.try_into()?;
        map.set(0, &raw(bytes_of(feed)), 0)?;
        self.repeat(feed.flows.max(WARM_UP))?;
        let program = self.ebpf.program(self.feed).context("no such program")?;
        let before = program.info()?;
        self.repeat(packets)?;
        let after = program.info()?;
        let runs = after.run_count() - before.run_count();
        ensure!(runs == u64::from(packets), "{runs} runs instead of {packets}");
        Ok((after.run_time() - before.run_time()).as_nanos() as f64 / runs as f64)
    }

    fn repeat(&self, packets: u32) -> Result<()> {
        let frame = [0; 128];
        let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::default() };
        let program = self.ebpf.program(self.feed).context("no such program")?;
        let result = match program {
            Program::Xdp(program) => program.test_run(options)?,
            Program::SchedClassifier(program) => program.test_run(options)?,
            _ => bail!("not a program of packets"),
        };
        // The verdict "sent", in linux/bpf.h and in linux/pkt_cls.h.
        ensure!(matches!(result.return_value, 3 | 7), "verdict {}", result.return_value);
        Ok(())
    }
}
