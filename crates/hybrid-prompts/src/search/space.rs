//! The prompts to choose from: instructions x formats x templates x openings of the answer x
//! demonstrations x label words.

use std::collections::{BTreeMap, BTreeSet};

use hybrid_data::LabelSet;

use crate::demonstration::Demonstrations;
use crate::error::PromptError;
use crate::label_words::label_words;
use crate::library::{default_label_patterns, default_templates};
use crate::prompt::{Prompt, PromptFormat};
use crate::template::Template;

/// How many parts of a prompt are searched.
pub(super) const DIMENSIONS: usize = 6;

/// One choice of each part: places in the lists of a space, in the order in which the prompts
/// follow each other.
pub(super) type Point = [usize; DIMENSIONS];

/// Where the instruction stands in a point.
pub(super) const INSTRUCTION: usize = 0;

/// Choices of each part of a prompt; one of each makes a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchSpace {
    instructions: Vec<String>,
    formats: Vec<PromptFormat>,
    templates: Vec<String>,
    answer_starts: Vec<String>,
    demonstrations: Vec<Demonstrations>,
    label_words: Vec<BTreeMap<String, Vec<String>>>,
}

impl SearchSpace {
    /// A space of these templates and label patterns, checked; without instructions and
    /// demonstrations, in plain format.
    ///
    /// `label_patterns`: each entry is one choice of label words, a list of patterns whose words
    /// together stand for a label. `given`: words of some labels that take the place of their names
    /// in the patterns. An empty list of templates or patterns stands for the built-in one
    /// ([`default_templates`], [`default_label_patterns`]).
    ///
    /// # Errors
    /// [`PromptError::EmptySpace`] without fields, and those of [`Template::for_fields`] and
    /// [`label_words`], for the first fault.
    pub fn build(
        fields: &BTreeSet<String>,
        labels: &LabelSet,
        templates: &[String],
        label_patterns: &[Vec<String>],
        given: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self, PromptError> {
        if fields.is_empty() {
            return Err(PromptError::EmptySpace { what: "field" });
        }
        let templates = if templates.is_empty() {
            default_templates(fields)
        } else {
            templates.to_vec()
        };
        for template in &templates {
            Template::for_fields(template, fields)?;
        }
        let label_patterns = if label_patterns.is_empty() {
            default_label_patterns()
        } else {
            label_patterns.to_vec()
        };
        let label_words = label_patterns
            .iter()
            .map(|patterns| label_words(labels, patterns, given))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            instructions: vec![String::new()],
            formats: vec![PromptFormat::default()],
            templates,
            answer_starts: vec![String::new()],
            demonstrations: vec![Demonstrations::default()],
            label_words,
        })
    }

    /// The built-in space for short texts and these fields.
    ///
    /// # Errors
    /// [`PromptError::EmptySpace`] without fields, [`PromptError::NoLabelWords`] for a blank label.
    pub fn default_for(fields: &BTreeSet<String>, labels: &LabelSet) -> Result<Self, PromptError> {
        Self::build(fields, labels, &[], &[], &BTreeMap::new())
    }

    /// With these instructions in place of none; an empty text is none.
    pub fn with_instructions(mut self, instructions: Vec<String>) -> Self {
        self.instructions = instructions;
        self
    }

    /// With these formats in place of the plain one.
    pub fn with_formats(mut self, formats: Vec<PromptFormat>) -> Self {
        self.formats = formats;
        self
    }

    /// With these openings of the answer in place of none; an empty text is none.
    pub fn with_answer_starts(mut self, answer_starts: Vec<String>) -> Self {
        self.answer_starts = answer_starts;
        self
    }

    /// With these choices of demonstrations in place of none.
    pub fn with_demonstrations(mut self, demonstrations: Vec<Demonstrations>) -> Self {
        self.demonstrations = demonstrations;
        self
    }

    /// With these choices of label words beside those there are, each with the words of every label.
    pub fn with_more_label_words(
        mut self,
        choices: impl IntoIterator<Item = BTreeMap<String, Vec<String>>>,
    ) -> Self {
        self.label_words.extend(choices);
        self
    }

    /// How many prompts there are, equal ones counted each.
    pub fn len(&self) -> usize {
        self.sizes().into_iter().fold(1, usize::saturating_mul)
    }

    /// Whether there is no prompt.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The prompts: for each instruction, format, template, opening of the answer and choice of
    /// demonstrations, each choice of label words.
    pub fn prompts(&self) -> impl Iterator<Item = Prompt> + '_ {
        (0..self.len()).map(|index| self.at(self.point(index)))
    }

    /// How many choices there are of each part.
    pub(super) fn sizes(&self) -> Point {
        [
            self.instructions.len(),
            self.formats.len(),
            self.templates.len(),
            self.answer_starts.len(),
            self.demonstrations.len(),
            self.label_words.len(),
        ]
    }

    /// The prompt of a point that lies in the space.
    pub(super) fn at(&self, point: Point) -> Prompt {
        let [
            instruction,
            format,
            template,
            answer_start,
            demonstrations,
            label_words,
        ] = point;
        Prompt {
            instruction: self.instructions[instruction].clone(),
            template: self.templates[template].clone(),
            format: self.formats[format],
            answer_start: self.answer_starts[answer_start].clone(),
            label_words: self.label_words[label_words].clone(),
            demonstrations: self.demonstrations[demonstrations].clone(),
        }
    }

    /// The point of the prompt that comes `index`-th.
    pub(super) fn point(&self, mut index: usize) -> Point {
        let mut point = self.sizes();
        for place in point.iter_mut().rev() {
            let size = *place;
            *place = index % size;
            index /= size;
        }
        point
    }

    /// Which prompt a point is, counted from the first.
    pub(super) fn index(&self, point: Point) -> usize {
        let sizes = self.sizes();
        (0..DIMENSIONS).fold(0, |index, place| index * sizes[place] + point[place])
    }

    /// The point of a prompt whose parts are all in the space.
    pub(super) fn find(&self, prompt: &Prompt) -> Option<Point> {
        Some([
            place_of(&self.instructions, &prompt.instruction)?,
            place_of(&self.formats, &prompt.format)?,
            place_of(&self.templates, &prompt.template)?,
            place_of(&self.answer_starts, &prompt.answer_start)?,
            place_of(&self.demonstrations, &prompt.demonstrations)?,
            place_of(&self.label_words, &prompt.label_words)?,
        ])
    }

    /// The point of a prompt; parts that are not in the space are added to it.
    pub(super) fn find_or_add(&mut self, prompt: &Prompt) -> Point {
        [
            place_or_add(&mut self.instructions, &prompt.instruction),
            place_or_add(&mut self.formats, &prompt.format),
            place_or_add(&mut self.templates, &prompt.template),
            place_or_add(&mut self.answer_starts, &prompt.answer_start),
            place_or_add(&mut self.demonstrations, &prompt.demonstrations),
            place_or_add(&mut self.label_words, &prompt.label_words),
        ]
    }

    /// The place of an instruction, which is added where it is new.
    pub(super) fn instruction_place(&mut self, instruction: &str) -> usize {
        place_or_add(&mut self.instructions, &instruction.to_owned())
    }

    pub(super) fn instructions(&self) -> &[String] {
        &self.instructions
    }

    pub(super) fn formats(&self) -> &[PromptFormat] {
        &self.formats
    }

    /// The choices of label words.
    pub(super) fn label_words(&self) -> &[BTreeMap<String, Vec<String>>] {
        &self.label_words
    }

    /// Every prompt with an instruction that may be new, without demonstrations.
    pub(super) fn with_instruction<'s>(
        &'s self,
        instruction: &'s str,
    ) -> impl Iterator<Item = Prompt> + 's {
        let bare = Self {
            instructions: vec![instruction.to_owned()],
            demonstrations: vec![Demonstrations::default()],
            ..self.clone()
        };
        (0..bare.len()).map(move |index| bare.at(bare.point(index)))
    }

    /// Adds choices of demonstrations.
    pub(super) fn add_demonstrations(&mut self, sets: Vec<Demonstrations>) {
        for set in &sets {
            place_or_add(&mut self.demonstrations, set);
        }
    }

    /// With these label words alone.
    pub(super) fn with_only_label_words(mut self, words: BTreeMap<String, Vec<String>>) -> Self {
        self.label_words = vec![words];
        self
    }

    /// Each choice of a part once, where it stands first.
    pub(super) fn distinct(&self) -> Self {
        Self {
            instructions: distinct(&self.instructions),
            formats: distinct(&self.formats),
            templates: distinct(&self.templates),
            answer_starts: distinct(&self.answer_starts),
            demonstrations: distinct(&self.demonstrations),
            label_words: distinct(&self.label_words),
        }
    }
}

fn place_of<T: PartialEq>(list: &[T], wanted: &T) -> Option<usize> {
    list.iter().position(|choice| choice == wanted)
}

fn place_or_add<T: PartialEq + Clone>(list: &mut Vec<T>, wanted: &T) -> usize {
    place_of(list, wanted).unwrap_or_else(|| {
        list.push(wanted.clone());
        list.len() - 1
    })
}

fn distinct<T: PartialEq + Clone>(list: &[T]) -> Vec<T> {
    let mut distinct = Vec::new();
    for choice in list {
        place_or_add(&mut distinct, choice);
    }
    distinct
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use hybrid_data::LabelSet;

    use super::SearchSpace;
    use crate::error::PromptError;
    use crate::prompt::{Prompt, PromptFormat};

    fn labels() -> LabelSet {
        vec!["top_up".to_owned(), "card_arrival".to_owned()].into()
    }

    fn fields(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_space_is_templates_times_label_words() {
        let templates = ["{{ text }}", "q: {{ text }}"].map(str::to_owned);
        let patterns = [
            vec!["{{ label }}".to_owned()],
            vec!["{{ label }}".to_owned(), "my {{ label }}".to_owned()],
        ];
        let given = BTreeMap::from([("top_up".to_owned(), vec!["adding money".to_owned()])]);
        let space =
            SearchSpace::build(&fields(&["text"]), &labels(), &templates, &patterns, &given)
                .unwrap();
        assert_eq!(space.len(), 4);
        let prompts: Vec<_> = space.prompts().collect();
        assert_eq!(prompts.len(), 4);
        assert_eq!(prompts[1].template, "{{ text }}");
        assert_eq!(
            prompts[1].words_of("top_up"),
            ["adding money", "my adding money"]
        );
        assert_eq!(prompts[2].template, "q: {{ text }}");
        assert_eq!(prompts[2].words_of("card_arrival"), ["card arrival"]);
    }

    #[test]
    fn the_default_space_holds_the_plain_prompt_for_any_fields() {
        for names in [&["text"][..], &["query"], &["premise", "hypothesis"]] {
            let fields = fields(names);
            let space = SearchSpace::default_for(&fields, &labels()).unwrap();
            let plain = crate::Prompt::plain(&fields, &labels()).unwrap();
            assert_eq!(space.prompts().next(), Some(plain), "first of all");
            let ids: BTreeSet<String> = space.prompts().map(|prompt| prompt.id()).collect();
            assert_eq!(ids.len(), space.len(), "all differ");
        }
    }

    #[test]
    fn all_parts_are_multiplied_and_found_again() {
        let (fields, labels) = (fields(&["text"]), labels());
        let templates = ["{{ text }}", "q: {{ text }}", "{{ text }}"].map(str::to_owned);
        let mut space = SearchSpace::build(&fields, &labels, &templates, &[], &BTreeMap::new())
            .unwrap()
            .with_instructions(vec![String::new(), "Judge.".to_owned()])
            .with_formats(vec![PromptFormat::Plain, PromptFormat::Chat])
            .with_answer_starts(vec![String::new(), "A:".to_owned(), "So:".to_owned()])
            .with_more_label_words([BTreeMap::new()]);
        assert_eq!(space.len(), 2 * 2 * 3 * 3 * 9);
        for (index, prompt) in space.prompts().enumerate() {
            assert_eq!(space.index(space.point(index)), index);
            assert_eq!(space.at(space.find(&prompt).unwrap()), prompt);
        }
        let distinct = space.distinct();
        assert_eq!(distinct.len(), 2 * 2 * 2 * 3 * 9);
        let ids: BTreeSet<String> = distinct.prompts().map(|prompt| prompt.id()).collect();
        assert_eq!(ids.len(), distinct.len());
        let other = Prompt {
            instruction: "Say.".to_owned(),
            template: "{{ text }}!".to_owned(),
            answer_start: "Well:".to_owned(),
            ..Prompt::default()
        };
        assert_eq!(space.find(&other), None);
        let point = space.find_or_add(&other);
        assert_eq!(point, [2, 0, 3, 3, 0, 8]);
        assert_eq!(space.at(point), other);
        assert_eq!(space.find_or_add(&other), point);
    }

    #[test]
    fn faults_are_refused_before_any_work() {
        let build = |templates: &[&str], patterns: &[&[&str]]| {
            let templates: Vec<String> = templates.iter().map(|text| (*text).to_owned()).collect();
            let patterns: Vec<Vec<String>> = patterns
                .iter()
                .map(|list| list.iter().map(|text| (*text).to_owned()).collect())
                .collect();
            SearchSpace::build(
                &fields(&["text"]),
                &labels(),
                &templates,
                &patterns,
                &BTreeMap::new(),
            )
            .unwrap_err()
        };
        assert!(matches!(
            build(&["{{ text }}", "no input"], &[]),
            PromptError::DropsInput { .. }
        ));
        assert!(matches!(
            build(&["{{ query }}"], &[]),
            PromptError::UnknownField { .. }
        ));
        assert!(matches!(
            build(&[], &[&["about"]]),
            PromptError::DropsInput { .. }
        ));
        assert!(matches!(
            build(&[], &[&[]]),
            PromptError::EmptySpace {
                what: "label pattern"
            }
        ));
        let none = SearchSpace::default_for(&BTreeSet::new(), &labels()).unwrap_err();
        assert!(
            matches!(none, PromptError::EmptySpace { what: "field" }),
            "{none:?}"
        );
    }
}
