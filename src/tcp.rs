//! Linux's information about a TCP connection. Nothing here reads or writes the socket.

use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// What the system knew of a connection when it was asked.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    told: TcpInfo,
    /// That many bytes of `told` come from the system; the others are 0.
    length: usize,
}

/// How far the bytes that were sent have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Bytes that the other machine has acknowledged since the connection began.
    pub acknowledged: u64,
    /// Whether more bytes are on their way or wait to be sent.
    pub under_way: bool,
}

/// Asks the system about a TCP socket. None: it is not a TCP socket.
pub fn info(socket: &impl AsFd) -> Option<Info> {
    let mut told = MaybeUninit::<TcpInfo>::zeroed();
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the system writes `length` bytes at most.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, told.as_mut_ptr().cast(), &raw mut length) };
    // SAFETY: it was zeroed, and any bytes are a TcpInfo.
    (result == 0).then(|| Info { told: unsafe { told.assume_init() }, length: length as usize })
}

impl Info {
    /// How far the sent bytes have come. None: a system before Linux 4.6 does not tell.
    pub fn sent(&self) -> Option<Sent> {
        let whole = self.length >= offset_of!(TcpInfo, notsent_bytes) + size_of::<u32>();
        let under_way = self.told.unacked > 0 || self.told.notsent_bytes > 0;
        whole.then_some(Sent { acknowledged: self.told.bytes_acked, under_way })
    }

    /// For how long the other machine has not answered although it has bytes to acknowledge; 0 if it has none.
    pub fn unanswered(&self) -> Duration {
        let told = &self.told;
        let owed = told.unacked > 0 || told.probes > 0 || told.retransmits > 0;
        let silent = told.last_data_recv.min(told.last_ack_recv);
        if owed { Duration::from_millis(silent.into()) } else { Duration::ZERO }
    }
}

/// The beginning of Linux's `struct tcp_info` (`linux/tcp.h`), which only grows at its end; libc's has less. Times are
/// milliseconds ago.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "the fields that are not read keep the others in their places")]
struct TcpInfo {
    state_and_ca_state: [u8; 2],
    retransmits: u8,
    /// Unanswered probes, of a full window or of a silent peer.
    probes: u8,
    backoff_to_flags: [u8; 4],
    rto_to_rcv_mss: [u32; 4],
    /// Segments sent and not acknowledged.
    unacked: u32,
    sacked_to_fackets: [u32; 4],
    last_sent: [u32; 2],
    last_data_recv: u32,
    last_ack_recv: u32,
    pmtu_to_total_retrans: [u32; 11],
    pacing_rates: [u64; 2],
    bytes_acked: u64,
    bytes_received: u64,
    segs: [u32; 2],
    notsent_bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    /// The offsets of `linux/tcp.h`.
    #[test]
    fn fields_stand_where_the_system_has_them() {
        assert_eq!(offset_of!(TcpInfo, unacked), 24);
        assert_eq!(offset_of!(TcpInfo, last_data_recv), 52);
        assert_eq!(offset_of!(TcpInfo, bytes_acked), 120);
        assert_eq!(offset_of!(TcpInfo, notsent_bytes), 144);
    }

    #[test]
    fn what_has_arrived_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
        let settled = || info(&client).unwrap().sent().unwrap();
        while settled().under_way {
            std::thread::yield_now();
        }
        // The first acknowledgement is of the connection's beginning.
        assert!((5..=6).contains(&settled().acknowledged), "{:?}", settled());
        assert_eq!(info(&client).unwrap().unanswered(), Duration::ZERO);
        assert!(info(&std::fs::File::open("/dev/null").unwrap()).is_none());
    }
}
