//! The encoders of one attempt, and its session on the devices where it needs any.
//!
//! Invariant: an attempt takes all that it needs of devices at once, from before its first encode to after its last, so that
//! two never wait for each other; a failure that is a device's is told to the device.

use ffpool_schema::encode::{CodecChoice, Encode, Encoder, Treatment, VideoEncode};
use ffpool_schema::failure::Cause;
use ffpool_schema::job::{HardwarePolicy, Parameters};
use ffpool_schema::message::Outcome;
use ffpool_schema::plan::ladder::Output;

use super::{Attempt, End};
use crate::devices::Session;
use crate::store::fetch::stopped;

impl Attempt<'_> {
    /// The encoder of each video, and the session of all of them. Waits while the devices are busy.
    pub(super) async fn encoders(&mut self, videos: &[&VideoEncode]) -> Result<(Vec<Option<Encoder>>, Session), End> {
        loop {
            let choose = |video: &&VideoEncode| {
                self.shop.encoder(video).map_err(|(wish, needs_device)| {
                    let cause = if needs_device { Cause::Device } else { Cause::Platform };
                    End::failure(cause, format!("this worker has no working encoder for {wish}"))
                })
            };
            let encoders = videos.iter().map(choose).collect::<Result<Vec<_>, End>>()?;
            let hardware: Vec<Encoder> =
                encoders.iter().copied().flatten().filter(|encoder| encoder.is_hardware()).collect();
            let mut stop = self.orders.stop.clone();
            tokio::select! {
                biased;
                order = stopped(&mut stop) => return Err(order.into()),
                session = self.shop.devices.session(&hardware) => if let Some(session) = session {
                    self.uses_device = !hardware.is_empty();
                    return Ok((encoders, session));
                },
                // Without one its devices fell ill meanwhile: other encoders may do, or none.
                () = tokio::time::sleep_until(self.deadline()) => {
                    let message = "no device had room for this within the attempt's time";
                    return Err(End::failure(Cause::Timeout, message));
                }
            }
        }
    }

    /// Why software encodes outputs for which a device is preferred.
    pub(super) fn fallback(&self, outputs: &[Output], encoders: &[Option<Encoder>]) -> Option<String> {
        let spec = &self.grant.spec;
        let mut said: Vec<String> = Vec::new();
        for (output, encoder) in outputs.iter().zip(encoders) {
            let others = output.number.checked_sub(1).and_then(|place| spec.outputs.get(place));
            let p = others.map_or(&spec.parameters, |other| &other.parameters);
            let why = encoder.and_then(|encoder| self.fell_back(p, &output.encode, encoder));
            said.extend(why.filter(|why| !said.contains(why)));
        }
        (!said.is_empty()).then(|| said.join("; "))
    }

    fn fell_back(&self, p: &Parameters, encode: &Encode, encoder: Encoder) -> Option<String> {
        if encoder.is_hardware() || p.hw != Some(HardwarePolicy::Prefer) || encode.video.treatment != Treatment::Encode
        {
            return None;
        }
        let (preferred, there): (&str, Vec<Encoder>) = match p.codec {
            Some(CodecChoice::Encoder(named)) => (named.as_str(), vec![named]),
            Some(CodecChoice::Codec(_) | CodecChoice::Copy | CodecChoice::None | CodecChoice::Picture) | None => {
                ("a device", encode.video.codec.hardware_encoders().to_vec())
            }
        };
        let works = self.shop.devices.encoders();
        let rate = encode.video.rate;
        let why = if !there.iter().any(|encoder| works.contains(encoder)) {
            "none works on this worker now"
        } else if !there.iter().any(|encoder| works.contains(encoder) && rate.is_kept_by(*encoder)) {
            "no device of this worker bounds a constant quality"
        } else {
            "a device failed before, or does not do what else is asked for"
        };
        Some(format!("{encoder} encodes instead of {preferred}, which is only preferred: {why}"))
    }
}

/// Tells the devices how their encodes went.
pub(super) fn judge<T>(session: &Session, made: &Result<T, End>) {
    match made {
        Ok(_) => session.succeeded(),
        Err(End::Report(outcome)) => match &**outcome {
            Outcome::Failed { failure } if failure.cause == Cause::Device => session.failed(),
            Outcome::Failed { .. }
            | Outcome::Finished { .. }
            | Outcome::Rejected { .. }
            | Outcome::Released { .. }
            | Outcome::Split { .. }
            | Outcome::Cancelled => {}
        },
        Err(End::Silent) => {}
    }
}
