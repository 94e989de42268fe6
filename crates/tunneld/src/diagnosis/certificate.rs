//! Who issued a certificate, and how long it holds: just so much of X.509 (RFC 5280 §4.1) as people are told.
//!
//! Whether it is to be trusted is decided elsewhere, by rustls.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use tunnel_transport::printable;

/// What is told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certificate {
    /// The common name of who issued it, or else the organization. None where it has neither.
    pub(super) issuer: Option<String>,
    pub(super) ends: Timestamp,
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`, the version; absent in certificates of the first one.
const VERSION: u8 = 0xa0;

/// The object identifiers 2.5.4.3 and 2.5.4.10.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];
const ORGANIZATION: [u8; 3] = [0x55, 0x04, 0x0a];

impl Certificate {
    /// Reads a certificate in DER. None when it is none.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let mut whole = Der(der);
        let mut certificate = Der(whole.take(SEQUENCE)?);
        let mut body = Der(certificate.take(SEQUENCE)?);
        if body.is_next(VERSION) {
            body.any()?;
        }
        let (_serial_number, _signature_algorithm) = (body.any()?, body.any()?);
        let issuer = issuer(Der(body.take(SEQUENCE)?));
        let mut validity = Der(body.take(SEQUENCE)?);
        let (_begins, ends) = (validity.any()?, validity.any()?);
        Some(Self { issuer, ends: time(ends)? })
    }
}

/// Returns what names the issuer best.
fn issuer(mut name: Der<'_>) -> Option<String> {
    let (mut common_name, mut organization) = (None, None);
    while let Some(parts) = name.take(SET) {
        let mut parts = Der(parts);
        while let Some(part) = parts.take(SEQUENCE) {
            let mut part = Der(part);
            let kind = part.take(OBJECT_IDENTIFIER)?;
            let (_, value) = part.any()?;
            let text = || Some(printable(std::str::from_utf8(value).ok()?)).filter(|text| !text.is_empty());
            if kind == COMMON_NAME {
                common_name = text();
            } else if kind == ORGANIZATION {
                organization = text();
            }
        }
    }
    common_name.or(organization)
}

/// Reads `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time((tag, text): (u8, &[u8])) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let text = match tag {
        // RFC 5280 §4.1.2.5.1: two digits are of 1950 to 2049.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = DateTime::strptime("%Y%m%d%H%M%S", text).ok()?;
    Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp())
}

/// What is left to read of a run of DER elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn is_next(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// Takes the content of the next element, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        if !self.is_next(tag) {
            return None;
        }
        self.any().map(|(_, content)| content)
    }

    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match length {
            0..=0x7f => (usize::from(length), rest),
            // A length of its own, in one to three bytes: no certificate is larger than 16 MiB.
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(common_name: Option<&str>, organization: Option<&str>, year: i32) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(["relay.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, name) in
            [(rcgen::DnType::OrganizationName, organization), (rcgen::DnType::CommonName, common_name)]
        {
            if let Some(name) = name {
                params.distinguished_name.push(kind, name);
            }
        }
        params.not_after = rcgen::date_time_ymd(year, 2, 28);
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn issuer_and_end_are_read_in_both_notations_of_time() {
        for (year, end) in [(2027, "2027-02-28T00:00:00Z"), (2061, "2061-02-28T00:00:00Z")] {
            let read = Certificate::read(&certificate(Some("Our CA"), Some("Org"), year)).unwrap();
            assert_eq!(read, Certificate { issuer: Some("Our CA".to_owned()), ends: end.parse().unwrap() });
        }
        let issuer =
            |name, organization| Certificate::read(&certificate(name, organization, 2030)).unwrap().issuer;
        assert_eq!(issuer(None, Some("Org")).as_deref(), Some("Org"));
        assert_eq!(issuer(Some("a\u{1b}[2J"), None).as_deref(), Some("a[2J"));
        assert_eq!(issuer(None, None), None);
    }

    #[test]
    fn what_is_cut_off_or_no_certificate_is_not_read() {
        let whole = certificate(Some("Our CA"), None, 2030);
        for length in 0..whole.len() {
            assert_eq!(Certificate::read(&whole[..length]), None, "{length}");
        }
        for odd in [&[0x30, 0x80][..], &[0x30, 0x84, 0, 0, 0, 0], &[0x30, 0x83, 0xff, 0xff, 0xff], b"----"] {
            assert_eq!(Certificate::read(odd), None);
        }
    }
}
