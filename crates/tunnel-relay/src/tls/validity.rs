//! From when to when a certificate holds.

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, which certificates of version 1 lack.
const EXPLICIT_0: u8 = 0xa0;

impl Validity {
    /// Reads it off a certificate (RFC 5280 §4.1), as far as that is one. The rest is for those who verify it.
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let (_, certificate, _) = element(der)?;
        let (_, mut to_be_signed, _) = element(certificate)?;
        if to_be_signed.first() == Some(&EXPLICIT_0) {
            to_be_signed = element(to_be_signed)?.2;
        }
        // Serial number, algorithm, issuer.
        for _ in 0..3 {
            to_be_signed = element(to_be_signed)?.2;
        }
        let (SEQUENCE, validity, _) = element(to_be_signed)? else { return None };
        let (tag, not_before, rest) = element(validity)?;
        let not_before = time(tag, not_before)?;
        let (tag, not_after, _) = element(rest)?;
        Some(Self { not_before, not_after: time(tag, not_after)? })
    }

    /// Returns when two thirds of its life are over.
    #[cfg_attr(not(feature = "acme"), expect(dead_code, reason = "whoever writes the files renews them"))]
    pub(crate) fn renew_at(self) -> u64 {
        self.not_before + self.not_after.saturating_sub(self.not_before) / 3 * 2
    }
}

/// Splits the first element off: tag, content, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = der.split_first_chunk()?;
    let (len, rest) = match first {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => {
            let (&[high, low], rest) = rest.split_first_chunk()?;
            (usize::from(high) << 8 | usize::from(low), rest)
        }
        // No certificate is longer than 64 KiB.
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// Reads `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let full = match tag {
        UTC_TIME => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", full).ok()?;
    let time = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    // One from before 1970 has always held.
    Some(u64::try_from(time.timestamp().as_second()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(from: (i32, u8, u8), to: (i32, u8, u8)) -> Vec<u8> {
        let mut params = rcgen::CertificateParams::new(["relay.test".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn seconds(date: &str) -> u64 {
        format!("{date}T00:00:00Z").parse::<jiff::Timestamp>().unwrap().as_second().try_into().unwrap()
    }

    #[test]
    fn both_ways_to_write_a_time_are_read() {
        let near = Validity::of(&certificate((2026, 1, 2), (2026, 4, 2))).unwrap();
        assert_eq!((near.not_before, near.not_after), (seconds("2026-01-02"), seconds("2026-04-02")));
        assert_eq!(near.renew_at(), seconds("2026-03-03"));
        let far = Validity::of(&certificate((1975, 1, 1), (4096, 1, 1))).unwrap();
        assert_eq!((far.not_before, far.not_after), (seconds("1975-01-01"), seconds("4096-01-01")));
    }

    #[test]
    fn what_is_no_certificate_has_no_validity() {
        let good = certificate((2026, 1, 2), (2026, 4, 2));
        for len in 0..good.len() {
            assert_eq!(Validity::of(&good[..len]), None, "{len} bytes");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            // Whatever comes out, nothing panics.
            let _whatever = Validity::of(&bad);
        }
    }
}
