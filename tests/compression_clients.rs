//! permessage-deflate with clients of others, where they are on the machine.

mod common;

use common::TestEngine;
use common::optional::{Outcome, need};
use std::process::Command;

const SCRIPT: &str = "
function on_message(msg, conn)
  conn:subscribe('all')
  mix.mesh.publish('all', msg.data, msg.type)
end";

/// Sends messages of several sizes, some in fragments, and checks what comes back; tells what was agreed.
const PYTHON: &str = r#"
import asyncio, sys
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

async def talk(at, factories, **more):
    async with connect(at, extensions=factories, max_size=None, **more) as ws:
        for size in (0, 1, 100, 300, 5000, 70000):
            text = "".join(f"{n} is a number, " for n in range(size // 10))[:size]
            for message in (text, text.encode(), [text[:size // 3], text[size // 3:]]):
                await ws.send(message)
                whole = "".join(message) if isinstance(message, list) else message
                assert await ws.recv() == whole, size
        agreed = ws.response.headers.get("Sec-WebSocket-Extensions")
        assert [e.name for e in ws.protocol.extensions] == ["permessage-deflate"], agreed
        print(agreed)

async def main(at):
    await talk(at, None, compression="deflate")
    for bits in (15, 12, 9):
        await talk(at, [ClientPerMessageDeflateFactory(server_max_window_bits=bits, client_max_window_bits=bits)])

asyncio.run(main(sys.argv[1]))
"#;

async fn the_websockets_of_python_sends_and_reads_compressed_messages() -> Outcome {
    need("python3", &["-c", "import websockets.asyncio.client"])?;
    let engine = TestEngine::with(SCRIPT, "compression: on", "workers: 2");
    let at = format!("ws://{}/ws", engine.ws());
    let run = move || Command::new("python3").args(["-c", PYTHON, &at]).env("NO_PROXY", "*").output().unwrap();
    let ended = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let bits = |bits: u8| format!("{agreed}; server_max_window_bits={bits}\n");
    let all = format!("{agreed}\n{}{}{}", bits(15), bits(12), bits(9));
    assert_eq!(String::from_utf8(ended.stdout).unwrap(), all);
    Ok(())
}

/// Cases 12 and 13 of Autobahn's test suite, by its client: `MESSAGES` (2) of each, where the suite sends 1000.
async fn the_client_of_autobahn_gets_back_what_it_sends_in_all_sizes_and_fragments() -> Outcome {
    need("python3", &["-c", "import autobahn.asyncio.websocket"])?;
    let script = "function on_message(msg, conn) conn:send(msg.data, msg.type) end";
    let engine = TestEngine::with(script, "compression: on\ncompressAbove: 0", "workers: 2");
    let at = format!("ws://{}/ws", engine.ws());
    let messages = std::env::var("MESSAGES").unwrap_or_else(|_| "2".into());
    let cases = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tools/autobahn_cases.py");
    let run = move || Command::new("python3").args([cases, &at, &messages]).env("NO_PROXY", "*").output().unwrap();
    let ended = tokio::task::spawn_blocking(run).await.unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert!(ended.status.success(), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(said, "216 of 216 cases passed\n");
    Ok(())
}

optional_tests! {
    the_client_of_autobahn_gets_back_what_it_sends_in_all_sizes_and_fragments,
    the_websockets_of_python_sends_and_reads_compressed_messages,
}
