//! Reads, ends and resets of real sockets.

use super::*;
use std::future::poll_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn pair() -> (Transport, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (transport, peer) = Transport::accept(&listener).await.unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    (transport, client)
}

/// Reads once, up to so many bytes.
async fn read(transport: &Transport, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; most];
    let mut into = ReadBuf::new(&mut bytes);
    poll_fn(|cx| transport.poll_read(cx, &mut into)).await?;
    Ok(into.filled().to_vec())
}

/// Whether a read would find something, as far as the runtime knows.
fn is_readable(transport: &Transport) -> bool {
    let cx = &mut Context::from_waker(Waker::noop());
    transport.socket().poll_read_ready(cx).is_ready()
}

#[tokio::test]
async fn a_read_that_leaves_room_needs_no_second_one_to_find_nothing() {
    let (transport, mut client) = pair().await;
    client.write_all(b"hello").await.unwrap();
    assert_eq!(read(&transport, 3).await.unwrap(), b"hel");
    assert!(is_readable(&transport), "there is more");
    assert_eq!(read(&transport, 3).await.unwrap(), b"lo");
    assert!(!is_readable(&transport));
    // What comes later is seen, and so is the end.
    client.write_all(b"again").await.unwrap();
    assert_eq!(read(&transport, 9).await.unwrap(), b"again");
    drop(client);
    assert_eq!(read(&transport, 9).await.unwrap(), b"");
    assert_eq!(read(&transport, 9).await.unwrap(), b"");
}

#[tokio::test]
async fn an_end_right_behind_the_last_bytes_is_not_lost() {
    let (transport, mut client) = pair().await;
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read(&transport, 9).await.unwrap(), b"bye");
    assert_eq!(read(&transport, 9).await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_that_is_not_read_is_seen_to_go() {
    let (transport, mut client) = pair().await;
    assert_eq!((transport.gone(), transport.unread()), (Gone::No, 0));
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    while transport.gone() == Gone::No {
        tokio::task::yield_now().await;
    }
    assert_eq!((transport.gone(), transport.unread()), (Gone::Sending, 5));
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    while transport.gone() != Gone::Wholly {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_reset_drops_what_the_client_does_not_take() {
    let (transport, mut client) = pair().await;
    while transport.try_write(&[0; 65536]).is_ok() {}
    assert!(transport.has_queued() && transport.probe_write(b"x").is_none());
    transport.reset();
    drop(transport);
    let all = client.read_to_end(&mut Vec::new()).await;
    assert_eq!(all.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_socket_moves_from_one_thread_to_another() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (here, mut client) = runtime().block_on(async {
        let (transport, client) = pair().await;
        (transport.release().unwrap(), client.into_std().unwrap())
    });
    client.set_nonblocking(false).unwrap();
    std::io::Write::write_all(&mut client, b"hello").unwrap();
    let there = std::thread::spawn(move || {
        runtime().block_on(async {
            let mut transport = Transport::adopt(here).unwrap();
            transport.write_all(&read(&transport, 9).await.unwrap()).await.unwrap();
        });
    });
    let mut echo = [0; 5];
    std::io::Read::read_exact(&mut client, &mut echo).unwrap();
    assert_eq!(&echo, b"hello");
    there.join().unwrap();
}

/// What every connection has of it.
#[test]
fn it_is_no_larger_than_its_socket() {
    assert_eq!(size_of::<Transport>(), size_of::<TcpStream>());
}

/// Both ends of a connection with TLS.
async fn enciphered_pair() -> [Transport; 2] {
    let (transport, client) = pair().await;
    let Transport::Tcp(socket) = transport else { unreachable!() };
    let [own, other] = crate::tls::fuzzing::open_pair();
    [(socket, own), (client, other)].map(|(socket, tls)| Transport::Tls(Box::new(Enciphered::new(socket, tls))))
}

/// A reader that never stops by itself lets others run, though more has come.
#[tokio::test]
async fn deciphering_makes_way_for_others() {
    let [mut from, to] = enciphered_pair().await;
    to.make_receive_room();
    let mut sent = 0;
    // In small records, as much as the sockets take.
    while let Ok(written) = from.try_write(&[7; 100]) {
        sent += written;
    }
    to.readable().await.unwrap();
    let (mut came, mut buffer) = (0, vec![0; 64 * 1024]);
    let pauses = poll_fn(|cx| {
        loop {
            let mut into = ReadBuf::new(&mut buffer);
            match to.poll_read(cx, &mut into) {
                Poll::Pending => return Poll::Ready((came, to.unread())),
                Poll::Ready(read) => read.unwrap(),
            }
            came += into.filled().len();
        }
    });
    let (first, unread) = pauses.await;
    assert!(0 < first && first < 100_000 && unread > 300_000, "{first} of {sent}, {unread} unread");
    let rest = async {
        while came < sent {
            came += read(&to, 64 * 1024).await.unwrap().len();
        }
    };
    let (flushed, ()) = tokio::join!(from.flush(), rest);
    flushed.unwrap();
}

/// After its close_notify, and when it has dropped what it owed, an end says nothing more, whatever comes.
#[tokio::test]
async fn nothing_follows_the_end() {
    for ends in [Transport::shutdown_write, Transport::forget] {
        let (transport, mut client) = pair().await;
        let Transport::Tcp(socket) = transport else { unreachable!() };
        let [session, _] = crate::tls::fuzzing::open_pair();
        let transport = Transport::Tls(Box::new(Enciphered::new(socket, session)));
        ends(&transport);
        // No key deciphers it.
        client.write_all(&[&[23, 3, 3, 0, 32][..], &[7; 32]].concat()).await.unwrap();
        let failure = read(&transport, 10).await.unwrap_err();
        assert_eq!((failure.kind(), transport.owes()), (io::ErrorKind::InvalidData, 0));
        transport.shutdown_write();
        drop(transport);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        // Nothing, or the close_notify alone.
        assert!(told.is_empty() || told.len() == 5 + 2 + 1 + 16, "{told:?}");
    }
}
