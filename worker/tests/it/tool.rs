//! Attempts with real tools: what is asked for comes out, limits hold, and whatever happens nothing is left behind.

pub mod bench;
mod chunks;
mod confinement;
mod corpus;
mod devices;
mod encodes;
mod endings;
mod energy;
mod freeze;
mod gstreamer;
mod limits;
mod options;
mod outputs;
mod paths;
mod pictures;
mod proof;
mod quality;
mod streaming;
mod thumbnails;
