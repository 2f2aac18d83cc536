//! A message whose headers are nested deeper than any stack, published by somebody who speaks AMQP himself.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use ffpool_broker::{Intake, Settled};
use ffpool_schema::job::Pool;
use ffpool_schema::topology::WorkQueue;
use lapin::uri::AMQPUri;

use crate::{BOUND, Place, soon};

/// Lists within each other: a hundred kilobytes, what fits into one frame.
const LEVELS: u32 = 20_000;

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_too_deep_end_nobody_and_the_message_is_received() {
    let place = Place::new("deep").await;
    let url = place.url.clone();
    let published = tokio::task::spawn_blocking(move || publish(&url));
    soon("the message is published", published).await.expect("no panic").expect("publish");

    let intake = Intake::new(place.link.clone(), WorkQueue::of_pool(&Pool::cpu()), 1);
    let delivery = soon("the message", intake.next()).await;
    assert_eq!((delivery.body.as_slice(), delivery.message_id.as_deref()), (&b"{}"[..], Some("deep")));
    assert_eq!(delivery.headers.get("after").map(String::as_str), Some("yes"), "what follows is read");
    assert!(!delivery.headers.contains_key("deep"));
    assert_eq!(delivery.ack().await, Settled::Done);

    place.publish("jobs.batch", "low", "next").await;
    let next = soon("the next message", intake.next()).await;
    assert_eq!(next.message_id.as_deref(), Some("next"));
    assert_eq!((next.ack().await, place.link.generation()), (Settled::Done, 1));
}

/// Publishes to the worst work queue, and waits until the broker has confirmed it.
fn publish(url: &str) -> io::Result<()> {
    let uri: AMQPUri = url.parse().map_err(io::Error::other)?;
    let (host, user) = (uri.authority.host, uri.authority.userinfo);
    let mut stream = TcpStream::connect((host.as_str(), uri.authority.port))?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    answer(&mut stream)?;
    let login = format!("\0{}\0{}", user.username, user.password);
    method(&mut stream, 0, &[&[0, 10, 0, 11], &[0; 4], &short("PLAIN"), &long(login.as_bytes()), &short("en_US")])?;
    let tune = answer(&mut stream)?;
    // What the broker offers, and no heartbeat.
    method(&mut stream, 0, &[&[0, 10, 0, 31], &tune[4..10], &[0, 0]])?;
    method(&mut stream, 0, &[&[0, 10, 0, 40], &short(&uri.vhost), &short(""), &[0]])?;
    answer(&mut stream)?;
    method(&mut stream, 1, &[&[0, 20, 0, 10], &short("")])?;
    answer(&mut stream)?;
    // Confirms.
    method(&mut stream, 1, &[&[0, 85, 0, 10], &[0]])?;
    answer(&mut stream)?;
    method(&mut stream, 1, &[&[0, 60, 0, 40, 0, 0], &short("jobs.batch"), &short("low"), &[0]])?;

    let nested: Vec<u8> =
        (0..LEVELS).rev().flat_map(|level| [&b"A"[..], &(level * 5).to_be_bytes()].concat()).collect();
    let table = [&short("deep")[..], &nested, &short("after"), b"S", &long(b"yes")].concat();
    // The body has two bytes; of the properties there are headers (bit 13) and the message's id (bit 7).
    let head = [&[0, 60, 0, 0][..], &2_u64.to_be_bytes(), &[0x20, 0x80], &long(&table), &short("deep")].concat();
    frame(&mut stream, 2, 1, &head)?;
    frame(&mut stream, 3, 1, b"{}")?;
    let confirmed = answer(&mut stream)?;
    assert_eq!(confirmed[..4], [0, 60, 0, 80], "basic.ack is expected");
    Ok(())
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("not so long").to_be_bytes(), bytes].concat()
}

fn method(stream: &mut TcpStream, channel: u16, parts: &[&[u8]]) -> io::Result<()> {
    frame(stream, 1, channel, &parts.concat())
}

fn frame(stream: &mut TcpStream, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
    stream.write_all(&[&[kind][..], &channel.to_be_bytes(), &long(payload), &[0xce]].concat())
}

/// The payload of the next frame.
fn answer(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
    stream.read_exact(&mut payload)?;
    payload.pop();
    Ok(payload)
}
