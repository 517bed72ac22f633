//! The `connmix` program; everything is in the library.

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

/// Half the time of the system's allocator in a handler's many small pieces, at the same memory a connection. Without
/// transparent huge pages: they would keep memory that a crowd has left.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// [`MiMalloc`], which always asks for an alignment. What any memory of `malloc` is aligned to need not be asked for, and
/// takes half the instructions.
struct Allocator;

/// As C has it: enough for any of its types (`max_align_t`), where so many bytes are asked for.
const MALLOC_ALIGN: usize = align_of::<libc::max_align_t>();

fn is_usual(size: usize, align: usize) -> bool {
    align <= MALLOC_ALIGN && align <= size
}

unsafe extern "C" {
    /// mimalloc's: as `malloc` and `realloc` of C.
    fn mi_malloc(size: usize) -> *mut c_void;
    fn mi_realloc(place: *mut c_void, size: usize) -> *mut c_void;
}

// SAFETY: `MiMalloc` keeps the promises of an allocator, and all memory is of its heap. `mi_malloc` and `mi_realloc` align as
// `malloc` must, which is enough where they are called.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if is_usual(layout.size(), layout.align()) {
                mi_malloc(layout.size()).cast()
            } else {
                MiMalloc.alloc(layout)
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { MiMalloc.dealloc(place, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe {
            if is_usual(size, layout.align()) {
                mi_realloc(place.cast(), size).cast()
            } else {
                MiMalloc.realloc(place, layout, size)
            }
        }
    }
}

fn main() -> std::process::ExitCode {
    connmix::cli::main()
}
