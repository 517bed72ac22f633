//! The `connmix` program; everything is in the library.

/// Half the time of the system's allocator in a handler's many small pieces, at the same memory a connection. Without
/// transparent huge pages: they would keep memory that a crowd has left.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    connmix::cli::main()
}
