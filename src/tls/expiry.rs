//! When certificates end: the `notAfter` of X.509 (RFC 5280, section 4.1.2.5), read without looking at anything else.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::{Date, Month, PrimitiveDateTime, Time};

use crate::clock::Timestamp;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// When the first certificate in a PEM file ends that ends first; `None` where none can be read. Blocks.
#[must_use]
pub fn of_file(path: &Path) -> Option<Timestamp> {
    let found = CertificateDer::pem_file_iter(path).ok()?;
    found.flatten().filter_map(|certificate| of(&certificate)).min_by_key(|end| end.millis())
}

/// When this certificate ends; `None` when it is none.
fn of(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut signed, _) = element(certificate, SEQUENCE)?;
    if signed.first() == Some(&VERSION) {
        signed = element(signed, VERSION)?.1;
    }
    // Serial number, algorithm, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        signed = element(signed, tag)?.1;
    }
    let (validity, _) = element(signed, SEQUENCE)?;
    let (_, _, after_start) = tagged(validity)?;
    let (tag, end, _) = tagged(after_start)?;
    moment(tag, end)
}

/// Content of the element that `der` begins with, and what follows it; `None` when it has another tag.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    tagged(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

fn tagged(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // A length of up to four bytes.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// `YYMMDDHHMMSSZ`, from 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn moment(tag: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i32 = text[..2].parse().ok()?;
            (if year < 50 { 2_000 + year } else { 1_900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<u8>().ok();
    let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(2)?).ok()?;
    let time = Time::from_hms(part(4)?, part(6)?, part(8)?).ok()?;
    let seconds = PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp();
    Some(Timestamp::from_millis(seconds * 1_000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;

    use super::*;

    fn ending(seconds: i64) -> rcgen::Certificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["n".to_owned()]).unwrap();
        params.not_after = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        params.self_signed(&key).unwrap()
    }

    #[test]
    fn the_end_is_read_in_either_century_and_the_first_of_a_file_counts() {
        // 2026, the last second of 2049, the first of 2050 (another form), 4096.
        let ends = [1_769_860_800, 2_524_607_999, 2_524_608_000, 67_090_377_600];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("certs.pem");
        let mut pem = String::new();
        for end in ends.into_iter().rev() {
            let certificate = ending(end);
            assert_eq!(of(certificate.der()).map(|end| end.millis()), Some(end * 1_000));
            pem.push_str(&certificate.pem());
        }
        std::fs::write(&path, pem).unwrap();
        assert_eq!(of_file(&path).unwrap().millis(), ends[0] * 1_000);
        assert_eq!(of_file(&dir.path().join("missing")), None);
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..300, byte in any::<u8>()) {
            let _ = of(&bytes);
            let mut der = ending(1_769_860_800).der().to_vec();
            let at = at % der.len();
            der[at] = byte;
            let _ = of(&der);
            let _ = of(&der[..at]);
        }
    }
}
