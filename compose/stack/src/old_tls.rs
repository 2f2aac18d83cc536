//! A client of a time long past, for tests of what servers refuse.

/// The hello of a client whose best is TLS 1.1, and which has everything else that a server with any certificate could ask of it:
/// P-256, ECDHE with ECDSA and RSA, RSA alone, signatures of TLS 1.2. Who refuses it refuses its version. After RFC 4346, 7.4.1.2 and RFC 4492, 5.1.
#[must_use]
pub fn hello_of_tls_1_1() -> Vec<u8> {
    let mut hello = vec![22, 3, 1, 0, 73, 1, 0, 0, 69, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 6, 0xc0, 0x09, 0xc0, 0x13, 0, 0x2f, 1, 0]);
    hello.extend([0, 22, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3]);
    hello
}

/// Whether a server's answer to it is a fatal alert for the version, or nothing.
#[must_use]
pub fn refuses_the_version(answer: &[u8]) -> bool {
    const ALERT: u8 = 21;
    const PROTOCOL_VERSION: u8 = 70;
    answer.is_empty() || (answer[0] == ALERT && answer.get(6) == Some(&PROTOCOL_VERSION))
}
