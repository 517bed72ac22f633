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
