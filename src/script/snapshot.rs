//! Where the script of a thread stands, told to another thread on request: for the log, when a worker does not go on.
//!
//! The thread itself writes the frames down, since nobody else can read a Lua stack that is in use. There are two places
//! where it can:
//!
//! - In Lua's debug hook, which may call all of Lua's API. The watchdog's signal sets it.
//! - In that signal's handler, while the thread is at the instruction of a system call that a native function has made
//!   (such as opening a FIFO). There the native function could have read the frames itself: Lua's state is as LuaJIT left
//!   it when it called the function, and the system call does not touch it. [`native`] recognises that place. A
//!   native function that computes may be changing the state, so nothing is read there.

use mlua::ffi::lua_State;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::*};

use super::slots::Slots;
use super::trace;

/// The most frames that are told.
const FRAMES: usize = 10;
/// The most levels of the stack that are looked at.
const LEVELS: c_int = 40;
/// The bytes of all frames: each file's name has at most 59, its line 10 digits.
const SIZE: usize = FRAMES * 80;

/// Nobody asks.
const IDLE: u8 = 0;
/// Another thread asks.
const ASKED: u8 = 1;
/// The thread writes.
const WRITING: u8 = 2;
/// The frames are there.
const TOLD: u8 = 3;

/// The frames of one thread, and whether they are asked for.
pub(super) struct Snapshot {
    state: AtomicU8,
    length: AtomicUsize,
    /// `file:line` of each frame, innermost first, each with a line feed behind it.
    text: [AtomicU8; SIZE],
}

impl Snapshot {
    pub fn new() -> Snapshot {
        Snapshot { state: AtomicU8::new(IDLE), length: AtomicUsize::new(0), text: [const { AtomicU8::new(0) }; SIZE] }
    }

    /// Asks for the frames. Only one thread may do so at a time.
    pub fn ask(&self) {
        self.state.store(ASKED, Release);
    }

    /// Whether they are asked for and not told yet.
    pub fn is_asked(&self) -> bool {
        self.state.load(Relaxed) == ASKED
    }

    /// Tells the frames of that Lua thread, if they are asked for. Allocates nothing, takes no lock and raises nothing.
    pub fn tell(&self, co: Slots<'_>) {
        if self.state.compare_exchange(ASKED, WRITING, Acquire, Relaxed).is_err() {
            return;
        }
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            for (place, byte) in self.text[length..].iter().zip(bytes) {
                place.store(*byte, Relaxed);
                length += 1;
            }
        };
        let mut left = FRAMES;
        trace::each_script_frame(co, LEVELS, |file, line| {
            put(&file[..file.len().min(60)]);
            put(b":");
            put(itoa::Buffer::new().format(line).as_bytes());
            put(b"\n");
            left -= 1;
            left > 0
        });
        self.length.store(length, Relaxed);
        self.state.store(TOLD, Release);
    }

    /// What has been told, once. Called by the thread that has asked.
    pub fn take(&self) -> Option<Vec<String>> {
        if self.state.load(Acquire) != TOLD {
            return None;
        }
        let text: Vec<u8> = self.text[..self.length.load(Relaxed)].iter().map(|byte| byte.load(Relaxed)).collect();
        self.state.store(IDLE, Relaxed);
        Some(String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    }

    /// Asks no longer. False: they are being told at this moment, or have been.
    pub fn withdraw(&self) -> bool {
        self.state.compare_exchange(ASKED, IDLE, Relaxed, Relaxed).is_ok()
    }
}

unsafe extern "C" {
    /// The Lua thread whose native function runs; null while anything else runs. It only reads. A patch of ours to
    /// LuaJIT (`build.rs`).
    fn connmix_native(state: *mut lua_State) -> *mut lua_State;
}

/// For a signal handler: the Lua thread whose native function the signal has interrupted in a system call; None: it is
/// somewhere else.
///
/// # Safety
/// `state` must be alive and used by this thread alone, and `context` what the handler got as its third argument.
pub(super) unsafe fn native<'a>(state: *mut lua_State, context: *const c_void) -> Option<Slots<'a>> {
    // SAFETY: the caller's.
    let call = unsafe { system_call(context) }?;
    if !WAITING.contains(&call) {
        return None;
    }
    // SAFETY: the state is alive; a thread that LuaJIT knows as the current one is, too.
    let co = unsafe { connmix_native(state) };
    // SAFETY: this thread of the system alone uses it, and stands in a function that it runs.
    (!co.is_null()).then(|| unsafe { Slots::new(co) })
}

/// System calls that may wait and that the kernel begins again after a signal. None is used to manage memory, which
/// LuaJIT does while it changes a stack.
const WAITING: [i64; 14] = [
    libc::SYS_openat,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_wait4,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_connect,
    libc::SYS_fsync,
    libc::SYS_unlinkat,
];

/// The system call whose instruction comes next; the kernel puts the thread there when a signal interrupts a call that
/// it will begin again.
///
/// # Safety
/// `context` must be what a signal handler got as its third argument.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
unsafe fn system_call(context: *const c_void) -> Option<i64> {
    /// `syscall`
    const INSTRUCTION: [u8; 2] = [0x0f, 0x05];
    // SAFETY: the caller's.
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = registers[libc::REG_RIP as usize] as *const [u8; 2];
    // SAFETY: the thread is about to execute what stands there, in its own code (code of the kernel's has negative
    // addresses).
    let next = ((at as i64) > 0).then(|| unsafe { at.read_unaligned() })?;
    (next == INSTRUCTION).then_some(registers[libc::REG_RAX as usize])
}

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
unsafe fn system_call(context: *const c_void) -> Option<i64> {
    /// `svc #0`
    const INSTRUCTION: u32 = 0xd400_0001;
    // SAFETY: the caller's.
    let machine = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
    // SAFETY: the thread is about to execute the instruction that stands there.
    let next = unsafe { (machine.pc as *const u32).read() };
    (next == INSTRUCTION).then_some(machine.regs[8] as i64)
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
unsafe fn system_call(_: *const c_void) -> Option<i64> {
    None
}
