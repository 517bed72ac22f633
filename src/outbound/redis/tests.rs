//! Which commands a pool can carry, how long they may take, and what replies become.

use super::*;

fn command(words: &str) -> Result<Command, String> {
    Command::new(&words.split(' ').collect::<Vec<_>>())
}

#[test]
fn a_command_is_sent_as_bytes_with_their_lengths() {
    let packed = |words: &[&[u8]]| Command::new(words).unwrap().packed;
    assert_eq!(packed(&[b"set", b"k\r\n", b"\0\xFF"]), b"*3\r\n$3\r\nset\r\n$3\r\nk\r\n\r\n$2\r\n\0\xFF\r\n");
    assert_eq!(packed(&[b"get", b""]), b"*2\r\n$3\r\nget\r\n$0\r\n\r\n");
}

#[test]
fn commands_that_change_the_connection_are_refused() {
    for words in
        ["SUBSCRIBE c", "monitor", "multi", "Watch k", "select 1", "auth x", "client reply off", "script debug yes"]
    {
        let e = command(words).unwrap_err();
        assert!(e.contains("is not possible here"), "{words}: {e}");
        assert!(!e.contains(" x"), "arguments may be secrets: {e}");
    }
    for words in ["publish c m", "client list", "script load x", "get select", "wait 1 10"] {
        assert!(command(words).is_ok(), "{words}");
    }
}

#[test]
fn a_command_that_blocks_may_take_its_own_time_and_ours() {
    let reply_timeout = |words: &str| command(words).unwrap().reply_timeout();
    let plus = |seconds: f64| Some(Duration::from_secs_f64(seconds) + REPLY_TIMEOUT);
    assert_eq!(reply_timeout("GET k"), plus(0.0));
    assert_eq!(reply_timeout("blpop a b 2.5"), plus(2.5));
    assert_eq!(reply_timeout("BLMPOP 3 1 k LEFT"), plus(3.0));
    assert_eq!(reply_timeout("xread COUNT 1 block 1500 STREAMS s $"), plus(1.5));
    assert_eq!(reply_timeout("XREADGROUP GROUP g c BLOCK 20 STREAMS s >"), plus(0.02));
    assert_eq!(reply_timeout("xread STREAMS s 0"), plus(0.0));
    assert_eq!(reply_timeout("BRPOP k 0"), None, "without end");
    // The server refuses these at once.
    for words in ["BLPOP k soon", "BLPOP k -1", "BLPOP", "BLPOP k nan", "BLPOP k 1e300", "XREAD BLOCK"] {
        assert_eq!(reply_timeout(words), plus(0.0), "{words}");
    }
}

#[test]
fn a_command_has_a_bound() {
    assert!(Command::new(&[b"set".to_vec(), b"k".to_vec(), vec![0; MAX_BYTES - 1000]]).is_ok());
    let e = Command::new(&[b"set".to_vec(), b"k".to_vec(), vec![0; MAX_BYTES]]).unwrap_err();
    assert_eq!(e, "set with its arguments has more than 16777216 bytes");
}
