//! Nearest demonstrations by embedding.

use std::collections::{BTreeMap, HashMap};

use crate::demonstration::Demonstrations;
use crate::error::PromptError;
use crate::model::{checked_vectors, scale_to_unit};
use crate::scoring::dot;

/// Embeds texts: one vector a text, all of one width, in order. Failures are handed on with
/// [`PromptError::model`].
pub type Embed<'e> = dyn FnMut(&[String]) -> Result<Vec<Vec<f32>>, PromptError> + 'e;

/// Unit vectors of texts, each embedded once.
#[derive(Default)]
pub(crate) struct Neighbours {
    vectors: HashMap<String, Vec<f32>>,
}

/// What is embedded of an example: its fields, whatever the template.
fn text_of(fields: &BTreeMap<String, String>) -> String {
    let texts: Vec<&str> = fields.values().map(String::as_str).collect();
    texts.join("\n")
}

impl Neighbours {
    /// The places of the `n` demonstrations whose fields are nearest to each input's, the nearest
    /// last, without the input itself.
    pub(crate) fn nearest(
        &mut self,
        demonstrations: &Demonstrations,
        n: usize,
        inputs: &[&BTreeMap<String, String>],
        embed: &mut Embed<'_>,
    ) -> Result<Vec<Vec<usize>>, PromptError> {
        let pool: Vec<String> = demonstrations
            .examples
            .iter()
            .map(|shown| text_of(&shown.fields))
            .collect();
        let texts: Vec<String> = inputs.iter().map(|fields| text_of(fields)).collect();
        self.learn(pool.iter().chain(&texts), embed)?;
        let nearest = |(fields, text): (&&BTreeMap<String, String>, &String)| {
            let own = &self.vectors[text];
            let mut near: Vec<(f32, usize)> = pool
                .iter()
                .enumerate()
                .filter(|&(place, _)| demonstrations.examples[place].fields != **fields)
                .map(|(place, text)| (dot(own, &self.vectors[text]), place))
                .collect();
            // Of equally near ones, the first.
            near.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            near.truncate(n);
            near.into_iter().rev().map(|(_, place)| place).collect()
        };
        Ok(inputs.iter().zip(&texts).map(nearest).collect())
    }

    fn learn<'t>(
        &mut self,
        texts: impl Iterator<Item = &'t String>,
        embed: &mut Embed<'_>,
    ) -> Result<(), PromptError> {
        let mut unknown: Vec<String> = texts
            .filter(|text| !self.vectors.contains_key(*text))
            .cloned()
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        let known_width = self.vectors.values().next().map(Vec::len);
        let mut vectors = checked_vectors(&unknown, embed(&unknown)?, known_width)?;
        vectors.iter_mut().for_each(|vector| scale_to_unit(vector));
        self.vectors.extend(unknown.into_iter().zip(vectors));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::Neighbours;
    use crate::demonstration::{Demonstration, Demonstrations};
    use crate::error::PromptError;

    fn fields(text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("text".to_owned(), text.to_owned())])
    }

    fn pool(texts: &[&str]) -> Demonstrations {
        let shown = texts.iter().map(|text| Demonstration {
            answer: "a".to_owned(),
            fields: fields(text),
        });
        Demonstrations {
            nearest: Some(2),
            examples: shown.collect(),
        }
    }

    /// The direction that a text names in degrees; lengths differ and do not matter.
    fn direction(text: &str) -> Vec<f32> {
        let degrees: f32 = text.parse().unwrap();
        let (y, x) = degrees.to_radians().sin_cos();
        vec![x * degrees, y * degrees]
    }

    #[test]
    fn the_nearest_come_last_and_the_input_is_left_out() {
        let pool = pool(&["15", "80", "30", "50"]);
        let mut asked = Vec::new();
        let mut embed = |texts: &[String]| {
            asked.extend_from_slice(texts);
            Ok(texts.iter().map(|text| direction(text)).collect())
        };
        let mut neighbours = Neighbours::default();
        let inputs = [fields("45"), fields("30")];
        let nearest = neighbours
            .nearest(&pool, 2, &inputs.each_ref(), &mut embed)
            .unwrap();
        assert_eq!(nearest, [[2, 3], [3, 0]]);
        neighbours
            .nearest(&pool, 2, &inputs.each_ref(), &mut embed)
            .unwrap();
        assert_eq!(asked.len(), 5, "each text is embedded once: {asked:?}");
    }

    #[test]
    fn vectors_are_checked() {
        let pool = pool(&["10"]);
        let input = fields("45");
        let mut short = |_: &[String]| Ok(vec![vec![1.0f32]]);
        let refused = Neighbours::default().nearest(&pool, 1, &[&input], &mut short);
        assert!(matches!(
            refused,
            Err(PromptError::ModelShape {
                expected: 2,
                found: 1,
                ..
            })
        ));
        let mut wild = |texts: &[String]| Ok(vec![vec![f32::NAN]; texts.len()]);
        let refused = Neighbours::default().nearest(&pool, 1, &[&input], &mut wild);
        assert!(matches!(refused, Err(PromptError::NotFinite { .. })));
    }
}
