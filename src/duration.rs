//! Durations as configuration and command line write them: a whole number and one unit, `500ms`,
//! `5s`, `1m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A duration that is written and read in that form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Written(pub(crate) Duration);

const MILLIS_PER_UNIT: [(&str, u64); 3] = [("ms", 1), ("s", 1000), ("m", 60_000)];

/// Why a text is not a duration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DurationError(String);

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is not a duration; write a whole number and one of the units ms, s and m, such \
             as \"500ms\", \"5s\" or \"1m\"",
            self.0
        )
    }
}

impl FromStr for Written {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || DurationError(text.to_owned());
        let unit = text.trim_start_matches(|character: char| character.is_ascii_digit());
        let digits = &text[..text.len() - unit.len()];
        let (_, millis) =
            MILLIS_PER_UNIT.into_iter().find(|&(name, _)| name == unit).ok_or_else(error)?;
        let count: u64 = digits.parse().map_err(|_| error())?;
        let millis = count.checked_mul(millis).ok_or_else(error)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let [milliseconds, seconds, minutes] =
            MILLIS_PER_UNIT.map(|(name, unit)| (name, u128::from(unit)));
        let (name, unit) = [minutes, seconds]
            .into_iter()
            .find(|&(_, unit)| millis > 0 && millis % unit == 0)
            .unwrap_or(milliseconds);
        write!(f, "{}{name}", millis / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        let millis = |text: &str| text.parse::<Written>().map(|written| written.0.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("5s"), Ok(5000));
        assert_eq!(millis("1m"), Ok(60_000));
        for bad in ["", "5", "s", "5 s", "-5s", "1.5s", "1h", "5S", "99999999999999999999s"] {
            assert_eq!(millis(bad), Err(DurationError(bad.to_owned())), "{bad}");
        }
        assert!(format!("{}m", u64::MAX).parse::<Written>().is_err(), "overflow");
    }

    #[test]
    fn durations_are_written_in_their_largest_unit() {
        for text in ["0ms", "1ms", "1500ms", "5s", "90s", "5m"] {
            assert_eq!(text.parse::<Written>().unwrap().to_string(), text);
        }
        assert_eq!("60s".parse::<Written>().unwrap().to_string(), "1m");
    }
}
