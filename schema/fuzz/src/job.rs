//! Jobs, and the scenarios and templates that they name.
//!
//! Invariant: a job that is taken is the same when it is read from its canonical form, in either encoding.

use ffpool_schema::catalog::{Catalog, CatalogFile};
use ffpool_schema::job::JobSpec;
use ffpool_schema::parse::{
    Encoding, Fault, MAX_FAULTS, Received, claimed_callback, claimed_id, parse, parse_asked, piece,
};
use ffpool_schema::scenario::resolve;
use serde_json::Value;

use super::{parts, text};

/// A job as JSON.
pub fn json(data: &[u8]) {
    read(data, Encoding::Json);
}

/// A job as MessagePack.
pub fn message_pack(data: &[u8]) {
    read(data, Encoding::MessagePack);
}

/// A scenario file, as TOML if its first letter is no brace; then, after a zero, a job that may name what is in it.
pub fn catalog(data: &[u8]) {
    let (file, body) = parts(data);
    let file: Option<CatalogFile> =
        if file.first() == Some(&b'{') { serde_json::from_slice(file).ok() } else { toml::from_str(&text(file)).ok() };
    let Some(file) = file else { return };
    let catalog = match Catalog::new(&file) {
        Ok(catalog) => catalog,
        Err(faults) => return assert!(!faults.is_empty()),
    };
    let (scenarios, templates) = catalog.views();
    let again = Catalog::of_views(scenarios, templates).expect("what the API shows of a catalog is one");
    assert_eq!(again.views().0.len(), catalog.views().0.len());
    let received = Received { body, catalog: Some(&catalog), ..Received::default() };
    match parse_asked(&received) {
        Ok(parsed) => is_canonical(&parsed.spec),
        Err(faults) => are_bounded(&faults),
    }
}

fn read(body: &[u8], encoding: Encoding) {
    let received = Received { body, content_type: Some(encoding.content_type()), ..Received::default() };
    let _ = (claimed_id(&received), claimed_callback(&received), piece(&received));
    match parse(&received) {
        Ok(spec) => is_canonical(&spec),
        Err(faults) => are_bounded(&faults),
    }
}

/// What is said of a bad job has bounds, and each fault names a place.
fn are_bounded(faults: &[Fault]) {
    assert!((1..=MAX_FAULTS).contains(&faults.len()), "{} faults", faults.len());
    for fault in faults {
        assert!(!fault.path.is_empty() && !fault.code.is_empty() && !fault.message.is_empty(), "{fault:?}");
        assert!(fault.path.len() <= 1000 && fault.message.len() <= 10_000, "{fault:?}");
    }
}

/// Equal, but for the last bit of numbers with 17 digits, which serde_json reads as either neighbour.
fn are_alike(one: &JobSpec, other: &JobSpec) {
    fn alike(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
                let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(0.0));
                (a - b).abs() <= a.abs() * 4.0 * f64::EPSILON
            }
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b)),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|((k, a), (l, b))| k == l && alike(a, b))
            }
            (one, other) => one == other,
        }
    }
    let value = |spec: &JobSpec| serde_json::to_value(spec).expect("a job can be written");
    assert!(alike(&value(one), &value(other)), "{one:?}\n{other:?}");
}

fn is_canonical(spec: &JobSpec) {
    let canonical = serde_json::to_vec(spec).expect("a job can be written");
    let packed = rmp_serde::to_vec_named(spec).expect("a job can be written");
    for (body, encoding) in [(&canonical, Encoding::Json), (&packed, Encoding::MessagePack)] {
        let received = Received { body, content_type: Some(encoding.content_type()), ..Received::default() };
        let again = parse(&received).unwrap_or_else(|faults| panic!("{faults:?} of {}", text(&canonical)));
        are_alike(&again, spec);
    }
    let stored: JobSpec = serde_json::from_slice(&canonical).expect("a job is read from the ledger");
    are_alike(&stored, spec);
    let _ = resolve(spec).expect("a job without a fault resolves");
}
