//! The Porter stemmer (Porter 1980) with NLTK's extensions, as ROUGE uses it.
//!
//! No stemmer on crates.io has these: `nltk.stem.PorterStemmer` (3.10) in its default mode is
//! followed rule by rule.

/// Words that the rules would get wrong.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// Suffixes and what replaces them.
type Rules = [(&'static str, &'static str)];

const STEP_2: &Rules = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
    ("logi", "log"),
];

const STEP_3: &Rules = &[
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

const STEP_4: &Rules = &[
    ("al", ""),
    ("ance", ""),
    ("ence", ""),
    ("er", ""),
    ("ic", ""),
    ("able", ""),
    ("ible", ""),
    ("ant", ""),
    ("ement", ""),
    ("ment", ""),
    ("ent", ""),
    ("ion", ""),
    ("ou", ""),
    ("ism", ""),
    ("ate", ""),
    ("iti", ""),
    ("ous", ""),
    ("ive", ""),
    ("ize", ""),
];

/// The stem of a word, in lower case.
///
/// ```
/// assert_eq!(hybrid_eval::porter_stem("Generalizations"), "gener");
/// assert_eq!(hybrid_eval::porter_stem("dying"), "die");
/// ```
pub fn porter_stem(word: &str) -> String {
    let lower = word.to_lowercase();
    if let Some((_, stem)) = IRREGULAR.iter().find(|(known, _)| *known == lower) {
        return (*stem).to_owned();
    }
    if word.chars().count() <= 2 {
        return lower;
    }
    let stem = step_1a(&lower);
    let stem = step_1b(&stem);
    let stem = step_1c(&stem);
    let stem = step_2(&stem);
    let stem = replace(&stem, STEP_3, |rest, _| measure(rest) > 0);
    let stem = replace(&stem, STEP_4, |rest, suffix| {
        measure(rest) > 1 && (suffix != "ion" || rest.ends_with(['s', 't']))
    });
    step_5(&stem)
}

/// Plurals.
fn step_1a(word: &str) -> String {
    if word.chars().count() == 4
        && let Some(rest) = word.strip_suffix("ies")
    {
        return format!("{rest}ie");
    }
    let plurals = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];
    replace(word, &plurals, |_, _| true)
}

/// Past tenses and gerunds.
fn step_1b(word: &str) -> String {
    if let Some(rest) = word.strip_suffix("ied") {
        let is_short = rest.chars().count() == 1;
        return format!("{rest}{}", if is_short { "ie" } else { "i" });
    }
    if word.ends_with("eed") {
        return replace(word, &[("eed", "ee")], |rest, _| measure(rest) > 0);
    }
    let verb = ["ed", "ing"]
        .into_iter()
        .filter_map(|suffix| word.strip_suffix(suffix))
        .find(|rest| has_vowel(rest));
    let Some(verb) = verb else {
        return word.to_owned();
    };
    if ["at", "bl", "iz"].iter().any(|end| verb.ends_with(end)) {
        format!("{verb}e")
    } else if let Some(letter) = double_consonant(verb) {
        let single = verb.strip_suffix(letter).unwrap_or(verb);
        let keeps_both = matches!(letter, 'l' | 's' | 'z');
        (if keeps_both { verb } else { single }).to_owned()
    } else if measure(verb) == 1 && ends_consonant_vowel_consonant(verb) {
        format!("{verb}e")
    } else {
        verb.to_owned()
    }
}

/// `y` becomes `i` behind a consonant that is not the only letter.
fn step_1c(word: &str) -> String {
    replace(word, &[("y", "i")], |rest, _| {
        let consonants = consonants(rest);
        consonants.len() > 1 && consonants.ends_with(&[true])
    })
}

/// Double suffixes.
fn step_2(word: &str) -> String {
    if let Some(rest) = word.strip_suffix("alli")
        && measure(rest) > 0
    {
        return step_2(&format!("{rest}al"));
    }
    replace(word, STEP_2, |rest, suffix| {
        // The `l` of `logi` counts to the stem, so that `geo` is long enough.
        if suffix == "logi" {
            measure(&format!("{rest}l")) > 0
        } else {
            measure(rest) > 0
        }
    })
}

/// A final `e`, and the second of two final `l`.
fn step_5(word: &str) -> String {
    let word = replace(word, &[("e", "")], |rest, _| {
        let measure = measure(rest);
        measure > 1 || (measure == 1 && !ends_consonant_vowel_consonant(rest))
    });
    replace(&word, &[("ll", "l")], |rest, _| {
        measure(&format!("{rest}l")) > 1
    })
}

/// Applies the first rule whose suffix the word has, if `holds(rest, suffix)`; no later rule is
/// tried.
fn replace(word: &str, rules: &Rules, holds: impl Fn(&str, &str) -> bool) -> String {
    let found = rules.iter().find_map(|(suffix, replacement)| {
        let rest = word.strip_suffix(suffix)?;
        Some((rest, suffix, replacement))
    });
    match found {
        Some((rest, suffix, replacement)) if holds(rest, suffix) => format!("{rest}{replacement}"),
        _ => word.to_owned(),
    }
}

/// Whether each letter is a consonant; `y` is one at the beginning and behind a vowel.
fn consonants(word: &str) -> Vec<bool> {
    let mut consonants = Vec::with_capacity(word.len());
    for letter in word.chars() {
        let is_consonant = match letter {
            'a' | 'e' | 'i' | 'o' | 'u' => false,
            'y' => !consonants.ends_with(&[true]),
            _ => true,
        };
        consonants.push(is_consonant);
    }
    consonants
}

/// Porter's m: how often a consonant follows a vowel.
fn measure(word: &str) -> usize {
    let pairs = consonants(word);
    pairs
        .windows(2)
        .filter(|pair| *pair == [false, true])
        .count()
}

fn has_vowel(word: &str) -> bool {
    consonants(word).contains(&false)
}

/// The consonant with which the word ends twice (Porter's *d).
fn double_consonant(word: &str) -> Option<char> {
    let mut letters = word.chars().rev();
    let (last, before) = (letters.next()?, letters.next()?);
    (last == before && consonants(word).ends_with(&[true])).then_some(last)
}

/// Whether the word ends as `hop` does (Porter's *o), or is a vowel and a consonant (NLTK).
fn ends_consonant_vowel_consonant(word: &str) -> bool {
    let consonants = consonants(word);
    consonants == [false, true]
        || (consonants.ends_with(&[true, false, true]) && !word.ends_with(['w', 'x', 'y']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::porter_stem;

    /// Stems of NLTK 3.10.4, one for each rule that differs from Porter's paper.
    #[test]
    fn extensions_of_nltk_are_followed() {
        for (word, stem) in [
            ("ties", "tie"),
            ("flies", "fli"),
            ("died", "die"),
            ("spied", "spi"),
            ("enjoy", "enjoy"),
            ("enjoyment", "enjoy"),
            ("spy", "spi"),
            ("by", "by"),
            ("geology", "geolog"),
            ("theology", "theolog"),
            ("hopefully", "hope"),
            ("radically", "radic"),
            ("skies", "sky"),
            ("ated", "ate"),
        ] {
            assert_eq!(porter_stem(word), stem, "{word}");
        }
    }

    proptest! {
        #[test]
        fn stems_are_no_longer_than_words(word in "[a-z]{0,12}") {
            prop_assert!(porter_stem(&word).len() <= word.len() + 1);
        }

        #[test]
        fn any_text_has_a_stem(word in ".{0,20}") {
            porter_stem(&word);
        }
    }
}
