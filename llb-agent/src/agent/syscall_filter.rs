// SPDX-License-Identifier: Apache-2.0
//! The system-call filter (seccomp) of a serving agent: a list of what is refused.
//!
//! A list of what is allowed would be stricter, but the filter also holds for the exec plugins of
//! kubeconfigs, which are programs of any kind: such a list would break some of them, and would break
//! the agent itself with a new C library. So the filter refuses what neither has a use for and what
//! takes over a machine, or was often a way into the kernel: mounts, namespaces, modules, other
//! processes' memory, keys, io_uring.
//!
//! Calls fail with EPERM, and those that this file does not know with ENOSYS, as in a kernel that does
//! not know them either. Programs for another architecture (32-bit ones too) are killed.

use std::collections::BTreeMap;

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

/// The newest call that is known here: `file_setattr` of Linux 6.17. Newer calls fail, since one of
/// them may do what an older one is refused for. On x86_64, calls of the x32 ABI have higher numbers
/// too; they would get around the list.
const LAST_KNOWN: i64 = 469;

/// `open_tree_attr` of Linux 6.15.
const OPEN_TREE_ATTR: i64 = 467;

/// Not in all variants of the crate libc.
const KEXEC_FILE_LOAD: i64 = if cfg!(target_arch = "x86_64") { 320 } else { 294 };

/// Refused with any arguments.
const REFUSED: &[i64] = &[
    // File systems.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_mount_setattr,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // With CAP_DAC_READ_SEARCH it opens files outside of a container.
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    // Namespaces; see also `NAMESPACE_FLAGS`.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Code in the kernel.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_reboot,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    // The kernel's keys.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Often used against the kernel.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // The machine's clock, name and logs.
    libc::SYS_clock_settime,
    libc::SYS_settimeofday,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_vhangup,
];

/// Refused on x86_64 only, where alone they exist: hardware ports and segments.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// clone(2) is refused with any of these. clone3(2) has its flags in memory, where no filter sees
/// them: it fails with ENOSYS, after which C libraries and Go use clone(2).
const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Installs the filter in all threads of this process. It holds for all programs that it starts too.
pub(super) fn install() -> Result<(), seccompiler::Error> {
    seccompiler::apply_filter_all_threads(&program()?)
}

fn program() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().chain(REFUSED_HERE).map(|&call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_clone, NAMESPACE_FLAGS.into_iter().map(has_flag).collect::<Result<_, _>>()?);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, std::env::consts::ARCH.try_into()?)?;
    let mut program = unknown_calls();
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// A rule for calls with this flag in the first argument.
fn has_flag(flag: libc::c_int) -> Result<SeccompRule, BackendError> {
    let flag = u64::from(flag.unsigned_abs());
    let operator = SeccompCmpOp::MaskedEq(flag);
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, operator, flag)?])
}

/// The first instructions: ENOSYS for calls that are not known here, and for clone3(2). A rule of the
/// crate cannot say "all higher numbers", and a filter of it has one error for all rules. Numbers are
/// those of this architecture: what comes next ends a program of another one, whose calls these
/// instructions can at most refuse.
fn unknown_calls() -> BpfProgram {
    /// Where the number is in `seccomp_data`.
    const NUMBER: u32 = 0;
    let instruction = |code: u32, jump_true, jump_false, operand| sock_filter {
        code: code as u16,
        jt: jump_true,
        jf: jump_false,
        k: operand,
    };
    let number = |call: i64| u32::try_from(call).unwrap_or(u32::MAX);
    vec![
        instruction(BPF_LD | BPF_W | BPF_ABS, 0, 0, NUMBER),
        instruction(BPF_JMP | BPF_JEQ | BPF_K, 1, 0, number(libc::SYS_clone3)),
        instruction(BPF_JMP | BPF_JGE | BPF_K, 0, 1, number(LAST_KNOWN + 1)),
        instruction(BPF_RET | BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
    ]
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Output};

    use super::*;

    /// Runs it from a thread with the filter, so that the other tests' threads have none.
    fn filtered(words: &[&str]) -> Output {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let thread = std::thread::spawn(move || {
            seccompiler::apply_filter(&program().unwrap()).unwrap();
            command.output().unwrap()
        });
        thread.join().unwrap()
    }

    #[test]
    fn what_a_plugin_needs_is_allowed() {
        let script = "set -e; cat < /proc/self/status | grep '^Seccomp:'; (echo child) & wait";
        let output = filtered(&["sh", "-c", script]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Seccomp:\t2\nchild\n");
    }

    #[test]
    fn threads_start_with_the_filter() {
        let thread = std::thread::spawn(|| {
            seccompiler::apply_filter(&program().unwrap()).unwrap();
            std::thread::spawn(|| 7).join().unwrap()
        });
        assert_eq!(thread.join().unwrap(), 7);
    }

    #[test]
    fn namespaces_are_refused_to_root_too() {
        let output = filtered(&["unshare", "--user", "true"]);
        assert!(!output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Operation not permitted"), "{said}");
    }

    #[test]
    fn mounts_are_refused_without_ending_the_program() {
        let thread = std::thread::spawn(|| {
            seccompiler::apply_filter(&program().unwrap()).unwrap();
            rustix::mount::unmount("/nowhere", rustix::mount::UnmountFlags::empty())
        });
        assert_eq!(thread.join().unwrap(), Err(rustix::io::Errno::PERM));
    }

    /// What the program answers to a call, as the kernel would run it.
    fn verdict(call: i64, argument: u64) -> u32 {
        let arch: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
        let mut data = [0; 64];
        data[..4].copy_from_slice(&u32::try_from(call).unwrap().to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        data[16..24].copy_from_slice(&argument.to_ne_bytes());
        let (program, mut at, mut value) = (program().unwrap(), 0, 0);
        loop {
            let instruction = &program[at];
            let (operand, code) = (instruction.k, u32::from(instruction.code));
            let jump = |is_true| usize::from(if is_true { instruction.jt } else { instruction.jf });
            at += 1;
            match code & 0x07 {
                BPF_LD => {
                    let offset = operand as usize;
                    value = u32::from_ne_bytes(data[offset..offset + 4].try_into().unwrap());
                }
                BPF_RET => return operand,
                BPF_JMP if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(value == operand),
                BPF_JMP if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(value >= operand),
                BPF_JMP if code == BPF_JMP => at += operand as usize,
                _ if code == libc::BPF_ALU | libc::BPF_AND | BPF_K => value &= operand,
                _ => panic!("instruction {code:#x} at {}", at - 1),
            }
        }
    }

    #[test]
    fn calls_are_allowed_refused_or_not_known() {
        const NOT_KNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
        let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
        for (call, argument, expected) in [
            (libc::SYS_read, 0, ALLOWED),
            (libc::SYS_execve, 0, ALLOWED),
            (libc::SYS_bpf, 0, ALLOWED),
            (libc::SYS_clone, thread, ALLOWED),
            (libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, REFUSED),
            (libc::SYS_clone, libc::CLONE_NEWNET | thread, REFUSED),
            (libc::SYS_ptrace, 0, REFUSED),
            (libc::SYS_io_uring_setup, 0, REFUSED),
            (OPEN_TREE_ATTR, 0, REFUSED),
            (KEXEC_FILE_LOAD, 0, REFUSED),
            (libc::SYS_clone3, 0, NOT_KNOWN),
            (LAST_KNOWN, 0, ALLOWED),
            (LAST_KNOWN + 1, 0, NOT_KNOWN),
            // read(2) of the x32 ABI.
            (0x4000_0000, 0, NOT_KNOWN),
        ] {
            let found = verdict(call, u64::from(argument.unsigned_abs()));
            assert_eq!(found, expected, "call {call} with {argument:#x}: {found:#x}");
        }
    }
}
