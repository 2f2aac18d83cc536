//! Pipelines of live media: what they are made of, what an address can do to them, and who may run them.

use std::net::IpAddr;

use super::*;
use crate::job::Engine;
use crate::live::LiveAddress;
use crate::plan::live::{LiveRequest, LiveSource};

/// The words of a run of a live job, its hosts at a judged address.
fn live_words(more: serde_json::Value) -> Vec<String> {
    let (spec, encode) = job(more).unwrap_or_else(|faults| panic!("{faults:?}"));
    let live = encode.live.clone().unwrap();
    let ip: Option<IpAddr> = "203.0.113.7".parse().ok();
    let sinks: Vec<_> = live.sinks.iter().map(|sink| (LiveAddress::parse(sink).unwrap(), ip)).collect();
    let input = spec.input.as_deref().map(|input| LiveAddress::parse(input).unwrap());
    let run = LiveRequest {
        encode: &encode,
        encoder: None,
        device: None,
        threads: 2,
        source: input.as_ref().map_or(LiveSource::Generated, |input| LiveSource::Live(input, ip, None)),
        sinks: &sinks,
        recording: live.record.then_some(Path::new("record-1.ts")),
        playlist: None,
        presentation: None,
        is_continued: false,
        is_later: false,
        is_heir: false,
        ca_file: None,
        silence_secs: 30,
        secs: None,
    };
    let pipeline = live_pipeline(&run, None).unwrap();
    let core = ["filesink", "queue", "identity"];
    for element in pipeline.elements() {
        let is_packaged = ELEMENTS.iter().any(|(known, _)| known == element);
        assert!(is_packaged || core.contains(element), "{element} is in no package");
    }
    let words: Vec<String> = pipeline.arguments().iter().map(|word| word.to_str().unwrap().to_owned()).collect();
    assert_eq!(unlisted(&words), Vec::<String>::new(), "set, and not looked for on workers");
    words
}

/// What words set of the elements of protocols that the protocols do not say.
fn unlisted(words: &[String]) -> Vec<String> {
    let speeches = crate::live::Protocol::ALL.into_iter().filter_map(speech);
    let known: Vec<_> = speeches.flat_map(|speech| speech.elements.into_iter().zip(speech.properties)).collect();
    let mut unlisted = Vec::new();
    let mut of = None;
    for word in words {
        match word.split_once('=') {
            None => of = known.iter().find(|(element, _)| element == word).map(|(_, properties)| properties),
            Some((name, _)) => {
                unlisted.extend(of.filter(|known| name != "name" && !known.contains(&name)).map(|_| word.clone()))
            }
        }
    }
    unlisted
}

#[test]
fn a_live_pipeline_names_its_ends_and_says_what_goes_by() {
    let recorded = live_words(serde_json::json!({"input": "rtmp://in.example/live/key"})).join(" ");
    for part in [
        "--no-fault --eos-on-shutdown --verbose rtmp2src name=source location=rtmp://203.0.113.7:1935/live/key timeout=5",
        "! flvdemux name=demux demux. ! h264parse ! identity name=arrival silent=false ! queue",
        "! avdec_h264 max-threads=2 ! videoconvert",
        "x264enc speed-preset=veryfast key-int-max=60",
        "! h264parse config-interval=-1 ! queue",
        "alignment=7 ! identity name=progress silent=false ! filesink location=record-1.ts buffer-mode=unbuffered demux. !",
        "demux. ! aacparse name=sound ! queue",
        "! avdec_aac ! audioconvert ! audioresample ! audio/x-raw ! avenc_aac bitrate=128000 ! aacparse ! queue",
    ] {
        assert!(recorded.contains(part), "{part} is not in {recorded}");
    }
    let sent = live_words(serde_json::json!({
        "input": "srt://[2001:db8::1]:9000?streamid=a%2Fb&passphrase=0123456789&latency=80",
        "output": "rtmp://u:pw@out.example/live/key"
    }))
    .join(" ");
    for part in [
        "srtsrc name=source uri=srt://203.0.113.7:9000?mode=caller&streamid=a%2Fb&passphrase=0123456789&latency=80 auto-reconnect=false ! tsdemux",
        "! flvmux name=mux latency=1000000000 streamable=true ! identity name=progress",
        "! rtmp2sink name=sink location=rtmp://u:pw@203.0.113.7:1935/live/key timeout=5 sync=false demux.",
    ] {
        assert!(sent.contains(part), "{part} is not in {sent}");
    }
    let generated = live_words(serde_json::json!({"output": "srt://out.example:9000", "parameters": {"duration": 4}}));
    let generated = generated.join(" ");
    for part in [
        "videotestsrc num-buffers=120 pattern=smpte is-live=true",
        "audiotestsrc num-buffers=400",
        "! srtsink name=sink",
    ] {
        assert!(generated.contains(part), "{part} is not in {generated}");
    }
}

#[test]
fn no_key_can_be_more_than_one_word_of_a_pipeline() {
    // What the tool's parser would read as more than a part of a word, and whether an address may hold it.
    for (key, is_taken) in [
        ("a!b", true),
        ("!", true),
        ("a=b", true),
        ("a,b;c", true),
        ("x!fakesink", true),
        ("a%20b", true),
        ("name=sink", true),
        ("a b", false),
        ("a\tb", false),
        ("a ! filesink location=x", false),
        ("a\"b", false),
        ("a'b", false),
        ("a\\b", false),
        ("a\\", false),
        ("a(b)", false),
        ("a{b}", false),
        ("a\nb", false),
        ("ä", false),
    ] {
        for address in [format!("rtmp://out.example/live/{key}"), format!("srt://out.example:9000?streamid={key}")] {
            assert_eq!(LiveAddress::parse(&address).is_ok(), is_taken, "{address:?}");
            if !is_taken {
                continue;
            }
            let words = live_words(serde_json::json!({"input": address, "output": "/m/out.mp4"}));
            let plain = live_words(serde_json::json!({"input": address.replace(key, "key"), "output": "/m/out.mp4"}));
            // One word differs, by the key alone; nothing in it ends a word, begins a quote or escapes.
            let other: Vec<_> = words.iter().zip(&plain).filter(|(word, plain)| word != plain).collect();
            assert_eq!((words.len(), other.len()), (plain.len(), 1), "{words:?}");
            let (word, plain) = other[0];
            assert_eq!(*word, plain.replace("key", key), "{word}");
            assert!(word.starts_with("location=rtmp://203.") || word.starts_with("uri=srt://203."), "{word}");
            assert!(!word.contains(|c: char| c.is_whitespace() || "\"'\\".contains(c)), "{word}");
        }
    }
}

#[test]
fn a_worker_runs_live_pipelines_only_with_all_elements_of_their_protocols() {
    let (spec, encode) = job(serde_json::json!({"input": "srt://in.example:9000"})).unwrap();
    let of_files = ["gstreamer-h264", "gstreamer-aac"].map(str::to_owned);
    let said = |features: &[String], missing: &[&str]| {
        let missing = missing.iter().map(|element| (*element).to_owned()).collect();
        let gstreamer = Some(Installation { version: String::new(), missing });
        let ability = Ability { features: features.to_vec(), gstreamer, ..bare() };
        let faults = scenario::fits(&spec, Some(&encode), &ability).err().unwrap_or_default();
        faults.iter().map(|fault| fault.message.clone()).collect::<Vec<_>>().join("; ")
    };
    assert!(said(&of_files, &["srtsrc"]).contains("`srtsrc`: install gstreamer1.0-plugins-bad"));
    // A worker of an older version has the elements and no pipelines of live media.
    assert!(said(&of_files, &[]).contains("`gstreamer-srt`"));
    let of_live = [&of_files[..], &["gstreamer-srt".to_owned()]].concat();
    assert_eq!(said(&of_live, &[]), "");
    assert!(said(&of_live, &["mpegtsmux"]).contains("`mpegtsmux`"));
    let auto = JobSpec { engine: Engine::Auto, ..spec.clone() };
    let gstreamer = Some(Installation::default());
    let ability = Ability { features: of_live, gstreamer, ..bare() };
    let choice = scenario::choose_engine(&auto, &encode, &ability).unwrap();
    assert_eq!(choice.engine, Engine::Gstreamer, "{choice:?}");
}
