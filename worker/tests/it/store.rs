//! Remote inputs and outputs, against a web server that misbehaves as told and an S3 server with its objects on disk.

mod inputs;
mod jobs;
mod outputs;
mod s3;
pub mod web;
