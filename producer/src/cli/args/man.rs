//! The flags of `man`.

pub(crate) const EXAMPLES: &str = "\
Examples:
  ffpool man ~/.local/share/man/man1
  ffpool man /usr/local/share/man/man1 && man ffpool-jobs-list

The services write theirs with `ffpool-dispatcher --man-pages DIR` and `ffpool-worker --man-pages DIR`.";
