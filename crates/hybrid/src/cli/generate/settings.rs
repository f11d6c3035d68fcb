//! How a text is continued, as the command line says it.

use hybrid_models::{BeamConfig, Decoding, GenerationConfig, SampleConfig};

use crate::HybridError;

/// Tokens that are written when nothing else is said and the model has room for them.
const MAX_TOKENS: usize = 256;

#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct SettingArguments {
    /// The most tokens of a text; 256 when left out, or fewer where the model has no room for them.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Draw tokens, their scores divided by T, instead of taking the best; so do the next four.
    #[arg(long, value_name = "T", help_heading = "Sampling")]
    temperature: Option<f64>,
    /// Draw among this many of the best tokens.
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    top_k: Option<usize>,
    /// Draw among the most likely tokens that have this share of the probability.
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    top_p: Option<f64>,
    /// Draw among tokens with at least this share of the best one's probability.
    #[arg(long, value_name = "P", help_heading = "Sampling")]
    min_p: Option<f64>,
    /// The same seed draws the same tokens; 0 when left out.
    #[arg(long, value_name = "S", help_heading = "Sampling")]
    seed: Option<u64>,
    /// Make tokens less likely that have occurred, when above 1.
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// Search for the text of the best score among N that are kept; it is printed at its end.
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "seed"]
    )]
    beams: Option<usize>,
    /// Favour longer texts among the beams, when above 0; 1 when left out.
    #[arg(
        long,
        value_name = "L",
        requires = "beams",
        allow_negative_numbers = true
    )]
    length_penalty: Option<f64>,
}

impl SettingArguments {
    /// # Errors
    /// [`HybridError::Model`] for a setting that means nothing.
    pub(super) fn check(&self) -> Result<(), HybridError> {
        Ok(self.config(None, 0, &[]).validate()?)
    }

    /// The settings of one batch: each draws numbers of its own. `room` is how many tokens the
    /// model is made to write.
    pub(super) fn config(
        &self,
        room: Option<usize>,
        batch: u64,
        eos_ids: &[i64],
    ) -> GenerationConfig {
        let default = MAX_TOKENS.min(room.unwrap_or(MAX_TOKENS)).max(1);
        GenerationConfig {
            max_new_tokens: self.max_tokens.unwrap_or(default),
            eos_ids: eos_ids.to_vec(),
            decoding: self.decoding(batch),
            repetition_penalty: self.repetition_penalty,
            processors: Vec::new(),
        }
    }

    fn decoding(&self, batch: u64) -> Decoding {
        if let Some(n_beams) = self.beams {
            let default = BeamConfig::default();
            return Decoding::Beam(BeamConfig {
                n_beams,
                length_penalty: self.length_penalty.unwrap_or(default.length_penalty),
                ..default
            });
        }
        let draws = self.temperature.is_some()
            || self.top_k.is_some()
            || self.top_p.is_some()
            || self.min_p.is_some()
            || self.seed.is_some();
        if !draws {
            return Decoding::Greedy;
        }
        let default = SampleConfig::default();
        Decoding::Sample(SampleConfig {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed.unwrap_or(default.seed).wrapping_add(batch),
        })
    }
}

#[cfg(test)]
mod tests {
    use hybrid_models::{Decoding, SampleConfig};

    use super::SettingArguments;

    #[test]
    fn any_setting_of_sampling_draws() {
        let greedy = SettingArguments {
            repetition_penalty: 1.0,
            ..SettingArguments::default()
        };
        assert_eq!(greedy.config(None, 3, &[]).decoding, Decoding::Greedy);
        let top_k = SettingArguments {
            top_k: Some(5),
            seed: Some(7),
            ..greedy
        };
        let expected = SampleConfig {
            top_k: Some(5),
            seed: 10,
            ..SampleConfig::default()
        };
        let found = top_k.config(None, 3, &[]).decoding;
        assert_eq!(found, Decoding::Sample(expected));
    }

    #[test]
    fn texts_are_as_long_as_there_is_room_unless_told() {
        let mut settings = SettingArguments::default();
        let length =
            |settings: &SettingArguments, room| settings.config(room, 0, &[]).max_new_tokens;
        let rooms = [None, Some(9000), Some(20), Some(0)];
        assert_eq!(rooms.map(|room| length(&settings, room)), [256, 256, 20, 1]);
        settings.max_tokens = Some(30);
        assert_eq!(rooms.map(|room| length(&settings, room)), [30; 4]);
    }
}
