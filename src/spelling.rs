//! What someone who wrote an unknown name probably meant.

/// `; did you mean "x"?` for the nearest of `known`, or nothing when none is near.
#[must_use]
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    nearest(word, known).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default()
}

/// The one of `known` that `word` is most likely a slip of: other case and underscores count as
/// nothing, and a third of the letters may be wrong. Else the one that `word` is the end of, or
/// that it begins with.
#[must_use]
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // The distance of two long texts takes long to compute, and none of ours is long.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('_', "-");
    known
        .iter()
        .map(|&name| (strsim::osa_distance(&word, name), name))
        .filter(|(distance, name)| *distance * 3 <= name.len().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
        .or_else(|| known.iter().copied().find(|name| is_part(&word, name)))
}

/// Whether `word` is the last part of `name`, in the singular or plural, or `name` and something
/// more.
fn is_part(word: &str, name: &str) -> bool {
    let singular = |word| str::strip_suffix(word, 's').unwrap_or(word);
    let is_end =
        singular(name).strip_suffix(singular(word)).is_some_and(|rest| rest.ends_with('-'));
    is_end || (name.len() > 2 && word.starts_with(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["domain", "to-ports", "secure"];
        assert_eq!(did_you_mean("to_ports", &known), "; did you mean \"to-ports\"?");
        assert_eq!(did_you_mean("toports", &known), "; did you mean \"to-ports\"?");
        assert_eq!(did_you_mean("Domian", &known), "; did you mean \"domain\"?");
        assert_eq!(did_you_mean("SECURE", &known), "; did you mean \"secure\"?");
        assert_eq!(did_you_mean("ports", &known), "; did you mean \"to-ports\"?");
        assert_eq!(did_you_mean("port", &known), "; did you mean \"to-ports\"?");
        assert_eq!(did_you_mean("s", &known), "");
        assert_eq!(did_you_mean("secured-by", &known), "; did you mean \"secure\"?");
        assert_eq!(did_you_mean("logging", &["limits", "log"]), "; did you mean \"log\"?");
        assert_eq!(did_you_mean("", &known), "");
        assert_eq!(did_you_mean("x", &known), "");
        assert_eq!(did_you_mean("colour", &known), "");
        assert_eq!(did_you_mean(&"secure".repeat(1000), &known), "");
        assert_eq!(did_you_mean("anything", &[]), "");
    }
}
