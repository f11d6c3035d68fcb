//! Folding a stack into the base's weights.

use hybrid_models::{Base, Embedding, Layer, Linear};

use crate::{AdapterError, Adapters};

impl Adapters {
    /// A base whose own weights compute what `base` computes under this stack; `base` itself is
    /// left as it is.
    ///
    /// # Errors
    /// [`AdapterError::NotMergeable`] when a method of the stack has no place in the base's weights.
    pub fn merge<B: Base + Clone>(&self, base: &B) -> Result<B, AdapterError> {
        for method in self.stack() {
            method.as_method().mergeable()?;
        }
        let mut merged = base.clone();
        for layer in self.merged_layers(base)? {
            merged.replace(layer)?;
        }
        Ok(merged)
    }

    /// The layers that differ from the base's.
    fn merged_layers(&self, base: &dyn Base) -> Result<Vec<Layer>, AdapterError> {
        let eval = self.eval();
        let mut sites: Vec<_> = eval
            .stack()
            .iter()
            .flat_map(|method| method.as_method().sites())
            .collect();
        sites.sort();
        sites.dedup();
        let mut layers = Vec::new();
        for site in sites {
            let layer = match base.layer_at(site) {
                Some(Layer::Linear(linear)) => Some(Layer::Linear(eval.merged_linear(linear)?)),
                Some(Layer::Norm(norm)) => eval.replaced_norm(norm).map(Layer::Norm),
                Some(Layer::Embedding(embedding)) => {
                    Some(Layer::Embedding(eval.merged_embedding(embedding)))
                }
                None => None,
            };
            layers.extend(layer);
        }
        Ok(layers)
    }

    fn merged_embedding(&self, base: &Embedding) -> Embedding {
        let replaced = self.replaced_embedding(base);
        let start = replaced.unwrap_or_else(|| base.clone());
        let methods = self.stack().iter().map(|method| method.as_method());
        methods.fold(start, |table, method| method.merge_embedding(table))
    }

    /// A linear layer that alone computes what the stack computes around `base`.
    ///
    /// # Errors
    /// [`AdapterError::NotMergeable`].
    pub(crate) fn merged_linear(&self, base: &Linear) -> Result<Linear, AdapterError> {
        let start = self.replaced_linear(base).unwrap_or_else(|| base.clone());
        self.stack().iter().try_fold(start, |linear, method| {
            method.as_method().merge_linear(linear)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::Hooks;
    use proptest::prelude::{Strategy, prop, proptest};
    use serde_json::json;

    use crate::one_linear::{D_IN, N_VALUES, OneLinear, base};
    use crate::{AdapterConfig, Adapters, named_tensors};

    /// `methods` in order; each digit is one method.
    fn stack(methods: &[usize]) -> Vec<AdapterConfig> {
        let of = |method: &usize| match method {
            0 => json!({"method": "lora", "r": 2, "lora_alpha": 3, "target_modules": ["dense"]}),
            1 => {
                json!({"method": "lora", "r": 1, "use_rslora": true, "target_modules": "all-linear"})
            }
            2 => json!({"method": "ia3", "target_modules": ["dense"], "feedforward_modules": []}),
            3 => json!({"method": "bitfit"}),
            4 => json!({"method": "vera", "r": 5, "target_modules": ["dense"]}),
            5 => json!({"method": "loha", "r": 2, "target_modules": ["dense"]}),
            6 => json!({"method": "lokr", "r": 1, "target_modules": ["dense"]}),
            7 => json!({"method": "oft", "oft_block_size": 3, "target_modules": ["dense"]}),
            8 => json!({"method": "hra", "r": 2, "target_modules": ["dense"]}),
            9 => json!({"method": "miss", "r": 2, "target_modules": ["dense"]}),
            10 => json!({"method": "road", "group_size": 2, "target_modules": ["dense"]}),
            11 => {
                json!({"method": "shira", "r": 1, "random_seed": 5, "target_modules": ["dense"]})
            }
            12 => {
                json!({"method": "unilora", "r": 2, "theta_d_length": 5, "target_modules": ["dense"]})
            }
            13 => json!({"method": "tinylora", "r": 3, "u": 2, "target_modules": ["dense"]}),
            _ => json!({"method": "beft", "target_modules": ["dense"]}),
        };
        methods
            .iter()
            .map(|method| serde_json::from_value(of(method)).unwrap())
            .collect()
    }

    /// The methods with moved values.
    fn moved(configs: &[AdapterConfig], base: &OneLinear, moves: &[f32]) -> Adapters {
        let adapters = Adapters::build(configs, base, "", 0, &Device::flex()).unwrap();
        let mut moves = moves.iter().cycle();
        let mut moved = BTreeMap::new();
        for (name, data) in named_tensors::collect(&adapters) {
            let values = data
                .iter::<f32>()
                .map(|value| value + moves.next().unwrap());
            let values: Vec<f32> = values.collect();
            moved.insert(name, TensorData::new(values, data.shape().clone()));
        }
        adapters.load_named_tensors(&moved).unwrap()
    }

    /// One method of a stack, alone.
    fn alone(stack: &Adapters, index: usize, base: &OneLinear) -> Adapters {
        let own = stack
            .named_tensors()
            .into_iter()
            .filter_map(|(name, data)| {
                let rest = name.strip_prefix(&format!("stack.{index}."))?;
                Some((format!("stack.0.{rest}"), data))
            });
        let config = &stack.configs()[index..=index];
        let adapters = Adapters::build(config, base, "", 0, &Device::flex()).unwrap();
        adapters.load_named_tensors(&own.collect()).unwrap()
    }

    proptest! {
        /// Merging commutes with stacking, in every order.
        #[test]
        fn a_merged_layer_computes_what_the_stack_computes(
            order in prop::sample::subsequence((0..=14).collect::<Vec<usize>>(), 1..=4).prop_shuffle(),
            values in prop::collection::vec(-1.0f32..1.0, N_VALUES + 2 * D_IN),
            moves in prop::collection::vec(-1.0f32..1.0, 64),
            next_to_base in 0usize..5,
        ) {
            let device = Device::flex();
            let (own, x) = values.split_at(N_VALUES);
            let (base, linear) = base(own, &device);
            let mut configs = stack(&order);
            let first = match next_to_base {
                0 => json!({"method": "lora", "r": 2, "use_dora": true, "target_modules": ["dense"]}),
                1 => json!({"method": "hira", "r": 2, "target_modules": ["dense"]}),
                2 => json!({"method": "boft", "boft_block_size": 3, "target_modules": ["dense"]}),
                3 => json!({"method": "miss", "r": 1, "init_weights": "bat", "target_modules": ["dense"]}),
                _ => json!(null),
            };
            configs.splice(0..0, serde_json::from_value::<Option<AdapterConfig>>(first).unwrap());
            let adapters = moved(&configs, &base, &moves);
            let merged = adapters.merged_linear(&linear).unwrap();
            let x = Tensor::<3>::from_data(TensorData::new(x.to_vec(), [1, 2, D_IN]), &device);
            let stacked = Hooks::linear(&adapters, &linear, x.clone()).into_data();
            merged.forward(x).into_data().assert_approx_eq::<f32>(&stacked, Tolerance::rel_abs(1e-4, 2e-4));
        }

        /// What is merged as a stack is what is merged method by method. BitFit alone is left out: its
        /// biases stand in place of the base's, under all that acts on them.
        #[test]
        fn a_stack_merges_as_its_methods_in_order(
            order in prop::sample::subsequence(
                vec![0usize, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11], 1..=4).prop_shuffle(),
            values in prop::collection::vec(-1.0f32..1.0, N_VALUES),
            moves in prop::collection::vec(-1.0f32..1.0, 64),
        ) {
            let (base, linear) = base(&values, &Device::flex());
            let adapters = moved(&stack(&order), &base, &moves);
            let at_once = adapters.merged_linear(&linear).unwrap();
            let in_order = (0..order.len()).fold(linear, |linear, index| {
                alone(&adapters, index, &base).merged_linear(&linear).unwrap()
            });
            let weight = in_order.weight.to_data();
            at_once.weight.to_data().assert_approx_eq::<f32>(&weight, Tolerance::rel_abs(1e-6, 1e-6));
            let bias = in_order.bias.unwrap().into_data();
            at_once.bias.unwrap().into_data().assert_approx_eq::<f32>(&bias, Tolerance::rel_abs(1e-6, 1e-6));
        }
    }
}
