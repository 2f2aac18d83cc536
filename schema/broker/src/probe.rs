//! Reads the broker's version from the first frame of the AMQP handshake.
//!
//! lapin does not hand out the server properties of `connection.start`, so a second, short connection asks for them.
//! The broker logs "client unexpectedly closed TCP connection" for it.

use std::time::Duration;

use futures_util::io::{AsyncReadExt, AsyncWriteExt};
use lapin::tcp::{AMQPUriTcpExt, OwnedTLSConfig};
use lapin::uri::AMQPUri;

/// The version is good to know and never worth a wait.
const PROBE: Duration = Duration::from_secs(5);
/// The frame is about 500 bytes; more than this is not an AMQP broker.
const START_FRAME_MAX: usize = 64 * 1024;

/// The version the broker announces, such as `4.0.5`. `None` if it cannot be read.
pub(crate) async fn server_version(uri: &AMQPUri, tls: &OwnedTLSConfig) -> Option<String> {
    let frame = tokio::time::timeout(PROBE, start_frame(uri, tls)).await.ok()?.ok()?;
    version_in(&frame)
}

async fn start_frame(uri: &AMQPUri, tls: &OwnedTLSConfig) -> std::io::Result<Vec<u8>> {
    let runtime = lapin::runtime::default_runtime().map_err(std::io::Error::other)?;
    let mut stream = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
    stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
    stream.flush().await?;
    // type (1), channel (2), size (4)
    let mut head = [0u8; 7];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
    if size > START_FRAME_MAX {
        return Err(std::io::Error::other("not an AMQP connection.start frame"));
    }
    let mut body = vec![0u8; size];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Finds the table entry `version` (short string key, long string value).
fn version_in(frame: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\x07versionS";
    let at = frame.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let length = u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?) as usize;
    let text = frame.get(at + 4..at + 4 + length)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::version_in;

    #[test]
    fn the_version_is_read_from_the_server_properties() {
        let mut frame = b"\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x20\x08platformS\x00\x00\x00\x06Erlang".to_vec();
        frame.extend_from_slice(b"\x07versionS\x00\x00\x00\x063.10.8\x00");
        assert_eq!(version_in(&frame).as_deref(), Some("3.10.8"));
    }

    #[test]
    fn a_truncated_frame_has_no_version() {
        assert_eq!(version_in(b"\x07versionS\x00\x00\x00\xff3.1"), None);
    }
}
