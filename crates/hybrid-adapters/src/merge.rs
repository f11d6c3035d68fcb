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

    fn merged_linear(&self, base: &Linear) -> Result<Linear, AdapterError> {
        let start = self.replaced_linear(base).unwrap_or_else(|| base.clone());
        self.stack().iter().try_fold(start, |linear, method| {
            method.as_method().merge_linear(linear)
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor, TensorData, Tolerance};
    use hybrid_models::{
        Base, BaseKind, Hooks, Layer, LayerTable, Linear, ModelError, SiteKind, SiteTable,
    };
    use proptest::prelude::{Strategy, prop, proptest};
    use serde_json::json;

    use crate::{AdapterConfig, Adapters, named_tensors};

    struct OneLinear(LayerTable);

    impl Base for OneLinear {
        fn model_type(&self) -> &'static str {
            "one linear layer"
        }

        fn kind(&self) -> BaseKind {
            BaseKind::Encoder
        }

        fn layers(&self) -> &LayerTable {
            &self.0
        }

        fn replace(&mut self, layer: Layer) -> Result<(), ModelError> {
            self.0 = LayerTable::without_checkpoint(self.sites().clone(), vec![layer]);
            Ok(())
        }
    }

    const D_IN: usize = 3;
    const D_OUT: usize = 4;

    fn base(values: &[f32], device: &Device) -> (OneLinear, Linear) {
        let mut sites = SiteTable::default();
        let kind = SiteKind::Linear {
            d_in: D_IN,
            d_out: D_OUT,
            bias: true,
        };
        let site = sites.add("dense", Some(0), false, kind);
        let (weight, bias) = values.split_at(D_IN * D_OUT);
        let linear = Linear {
            site,
            weight: Tensor::from_data(TensorData::new(weight.to_vec(), [D_IN, D_OUT]), device)
                .into(),
            bias: Some(Tensor::from_data(
                TensorData::new(bias.to_vec(), [D_OUT]),
                device,
            )),
        };
        let layers = vec![Layer::Linear(linear.clone())];
        (
            OneLinear(LayerTable::without_checkpoint(sites, layers)),
            linear,
        )
    }

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
            11 => json!({"method": "shira", "r": 1, "target_modules": ["dense"]}),
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

    proptest! {
        /// Merging commutes with stacking, in every order.
        #[test]
        fn a_merged_layer_computes_what_the_stack_computes(
            order in prop::sample::subsequence((0..=14).collect::<Vec<usize>>(), 1..=4).prop_shuffle(),
            values in prop::collection::vec(-1.0f32..1.0, D_IN * D_OUT + D_OUT + 2 * D_IN),
            moves in prop::collection::vec(-1.0f32..1.0, 64),
            next_to_base in 0usize..5,
        ) {
            let device = Device::flex();
            let (own, x) = values.split_at(D_IN * D_OUT + D_OUT);
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
            let adapters = Adapters::build(&configs, &base, "", 0, &device).unwrap();
            let mut moves = moves.iter().cycle();
            let moved = named_tensors::collect(&adapters).into_iter().map(|(name, data)| {
                let values: Vec<f32> = data.iter::<f32>().map(|value| value + moves.next().unwrap()).collect();
                (name, TensorData::new(values, data.shape().clone()))
            }).collect();
            let adapters = adapters.load_named_tensors(&moved).unwrap();
            let merged = adapters.merged_linear(&linear).unwrap();
            let x = Tensor::<3>::from_data(TensorData::new(x.to_vec(), [1, 2, D_IN]), &device);
            let stacked = Hooks::linear(&adapters, &linear, x.clone()).into_data();
            merged.forward(x).into_data().assert_approx_eq::<f32>(&stacked, Tolerance::rel_abs(1e-4, 2e-4));
        }
    }
}
