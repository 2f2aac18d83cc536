//! The dispatcher over real servers, which all tests of this binary share.

mod api;
mod ledger;
