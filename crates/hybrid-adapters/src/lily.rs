//! LiLy: low-rank side paths whose first factors serve neighbouring layers and whose second ones
//! are mixed, in each layer by a router of its own, out of a few that serve all (Zhong et al.
//! 2024).
//!
//! `y = f(x) + s A x (sum_e p_e B_e)` with `p` the mean of `softmax(R A x)` over all that one
//! forward reads: in PEFT's formulation one mixture for a whole batch, its padding included, not
//! one for each token. So what a row becomes depends on its batch, and no weight can hold it.
//!
//! Layers share factors when the same name among the targets selects them and their weights have
//! one shape: all of them `B`, each `stride_A` neighbours `A`. A regular expression is one name;
//! under `all-linear` the name is what follows the number of the layer.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{Linear, Site, SiteId};

use crate::error::wrong_setting;
use crate::method::{Building, Inner, Method, Pass, PeftName};
use crate::module_order::in_module_order;
use crate::random::HostRandom;
use crate::site_map::SiteMap;
use crate::site_method::{PeftForm, SiteConfig, in_rows, site_settings};
use crate::site_place::shape;
use crate::targets::{Selector, ends_with_name};
use crate::{AdapterError, Targets};

pub(crate) const FORM: PeftForm = PeftForm {
    method: "lily",
    peft_type: "LILY",
    keys: &[
        "r",
        "stride_A",
        "num_B",
        "scaling",
        "init_weights",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    ],
    neutral: &[],
    only: &[],
    fan_in_fan_out: false,
};

site_settings! {
    /// LiLy's settings, with PEFT's names and meanings.
    LilyConfig as FORM {
        /// Rank of the update.
        #[schemars(range(min = 1))]
        r: usize = 32,
        /// Neighbouring layers that share a first factor.
        #[serde(rename = "stride_A")]
        #[schemars(range(min = 1))]
        stride_a: usize = 1,
        /// Number of second factors that are mixed.
        #[serde(rename = "num_B")]
        #[schemars(range(min = 2))]
        num_b: usize = 2,
        /// Scale of the update.
        scaling: f64 = 1.0,
        /// Whether the second factors start at zero, and the adapted base as the base.
        init_weights: bool = true,
    }
}

/// Factors by the first of the sites that share them, and a router for each site.
#[derive(Module, Debug)]
pub(crate) struct Lily {
    /// `A`, `[r, d_in]`.
    lily_a: SiteMap<Factor>,
    /// All `B` one below the other, `[num_B * r, d_out]`.
    lily_b: SiteMap<Factor>,
    /// `R`, `[num_B, r]`.
    lily_router: SiteMap<Factor>,
    #[module(skip)]
    sites: BTreeMap<SiteId, Sharing>,
    #[module(skip)]
    scaling: f64,
}

/// A matrix.
#[derive(Module, Debug)]
pub(crate) struct Factor {
    weight: Param<Tensor<2>>,
}

/// A site, and where its factors are kept.
#[derive(Debug, Clone)]
struct Sharing {
    path: String,
    a: SiteId,
    b: SiteId,
}

impl LilyConfig {
    /// # Errors
    /// [`AdapterError::Setting`].
    fn check(&self) -> Result<(), AdapterError> {
        let wrong = wrong_setting(FORM.method);
        for (key, value) in [("r", self.r), ("stride_A", self.stride_a)] {
            if value == 0 {
                return wrong(key, "1 or more", value.to_string());
            }
        }
        if self.num_b < 2 {
            let expected = "2 or more, as a router chooses among them";
            return wrong("num_B", expected, self.num_b.to_string());
        }
        match self.scaling.is_finite() {
            true => Ok(()),
            false => wrong("scaling", "a finite number", self.scaling.to_string()),
        }
    }

    /// The name by which a path is selected, and PEFT would select it.
    pub(crate) fn name_of<'a>(&'a self, path: &'a str) -> &'a str {
        match &self.target_modules {
            Targets::Names(names) => names
                .iter()
                .filter(|name| ends_with_name(path, name))
                .max_by_key(|name| name.len())
                .map_or(path, String::as_str),
            targets if targets.is_all_linear() => in_layer(path),
            Targets::Pattern(pattern) => pattern,
        }
    }

    /// `A`, all `B` and `R` of a site that shares none.
    fn first_values(&self, [d_in, d_out]: [usize; 2], mut random: HostRandom) -> [TensorData; 3] {
        let (r, n) = (self.r, self.num_b);
        let (a, router) = (random.kaiming([r, d_in]), random.kaiming([n, r]));
        let b = match self.init_weights {
            true => TensorData::new(vec![0.0f32; n * r * d_out], [n * r, d_out]),
            false => random.kaiming([n * r, d_out]),
        };
        [a, b, router]
    }

    /// Which sites share which factors; `sites` come in module order.
    fn sharing(&self, sites: &[&Site], prefix: &str) -> BTreeMap<SiteId, Sharing> {
        let mut groups: BTreeMap<(String, [usize; 2]), Vec<SiteId>> = BTreeMap::new();
        let mut sharing = BTreeMap::new();
        for site in sites {
            let name = self.name_of(&format!("{prefix}{}", site.path)).to_owned();
            let group = groups.entry((name, shape(site))).or_default();
            group.push(site.id);
            let place = group.len() - 1;
            let of_site = Sharing {
                path: site.path.clone(),
                a: group[place / self.stride_a * self.stride_a],
                b: group[0],
            };
            sharing.insert(site.id, of_site);
        }
        sharing
    }
}

/// What follows the last number in a path, or all of it.
fn in_layer(path: &str) -> &str {
    let mut ends = path.match_indices('.').map(|(end, _)| end).rev();
    let number = |end: &usize| {
        let part = path[..*end].rsplit('.').next();
        part.is_some_and(|part| part.parse::<usize>().is_ok())
    };
    ends.find(number).map_or(path, |end| &path[end + 1..])
}

impl Lily {
    /// `A` and routers by PyTorch's Kaiming initialisation, `B` zero unless asked otherwise.
    ///
    /// # Errors
    /// [`AdapterError::Setting`], [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`]
    /// or [`AdapterError::Pattern`].
    pub(crate) fn init(config: &LilyConfig, building: &Building<'_>) -> Result<Self, AdapterError> {
        config.check()?;
        let sites = building.linear_sites(FORM.method, &Selector::new(config.selection())?)?;
        let in_order = in_module_order(building.base.model_type(), sites.clone());
        let sharing = config.sharing(&in_order, building.prefix);
        let drawn = sites.iter().map(|site| {
            (
                site.id,
                config.first_values(shape(site), building.random(site.id)),
            )
        });
        let drawn: BTreeMap<SiteId, [TensorData; 3]> = drawn.collect();
        let factors = |part: usize, owns: fn(&Sharing, SiteId) -> bool| {
            let owners = sites.iter().copied();
            let owners = owners.filter(|site| owns(&sharing[&site.id], site.id));
            SiteMap::build(owners, |site| {
                let values = drawn[&site.id][part].clone();
                Ok::<_, AdapterError>(Factor {
                    weight: Param::from_data(values, building.device),
                })
            })
        };
        Ok(Self {
            lily_a: factors(0, |sharing, site| sharing.a == site)?,
            lily_b: factors(1, |sharing, site| sharing.b == site)?,
            lily_router: factors(2, |_, _| true)?,
            sites: sharing,
            scaling: config.scaling,
        })
    }

    /// `A`, all `B` and `R` of a site.
    fn factors(&self, site: SiteId) -> Option<[Tensor<2>; 3]> {
        let sharing = self.sites.get(&site)?;
        Some([
            self.lily_a.get(sharing.a)?.weight.val(),
            self.lily_b.get(sharing.b)?.weight.val(),
            self.lily_router.get(site)?.weight.val(),
        ])
    }

    /// # Shapes
    /// - `rows`: `[rows, d_in]` → `[rows, d_out]`
    fn side(&self, [a, b, router]: [Tensor<2>; 3], rows: Tensor<2>) -> Tensor<2> {
        let ([r, _], [n, _], [_, d_out]) = (a.dims(), router.dims(), b.dims());
        let narrow = rows.matmul(a.transpose());
        let shares = softmax(narrow.clone().matmul(router.transpose()), 1).mean_dim(0);
        let mixed = shares.matmul(b.reshape([n, r * d_out]));
        let mixed = mixed.reshape([r, d_out]).mul_scalar(self.scaling);
        narrow.matmul(mixed)
    }

    /// Name and path of a parameter, as `lily_A.weight` at its first site.
    fn named(name: &str) -> Option<(&'static str, &str)> {
        let (part, rest) = name.split_once('.')?;
        let tensor = match part {
            "lily_a" => "lily_A.weight",
            "lily_b" => "lily_B.weight",
            _ => "lily_router.weight",
        };
        Some((tensor, rest.strip_suffix(".weight")?))
    }
}

impl Method for Lily {
    fn name(&self) -> &'static str {
        FORM.method
    }

    fn sites(&self) -> Vec<SiteId> {
        self.sites.keys().copied().collect()
    }

    fn wraps(&self) -> Vec<SiteId> {
        self.sites()
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, _pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        match self.factors(base.site) {
            Some(factors) => inner(x.clone()) + in_rows(x, |rows| self.side(factors, rows)),
            None => inner(x),
        }
    }

    fn peft_name(&self, name: &str) -> Option<PeftName> {
        let (tensor, path) = Self::named(name)?;
        let key = format!("{path}.{tensor}");
        let stored = key.clone();
        Some(PeftName { key, stored })
    }

    /// Files have what sites share at each of them.
    fn peft_copies(&self, name: &str) -> Vec<String> {
        let Some((tensor, path)) = Self::named(name) else {
            return Vec::new();
        };
        let owner = self.sites.iter().find(|(_, sharing)| sharing.path == path);
        let Some((owner, _)) = owner else {
            return Vec::new();
        };
        let shares = |(site, sharing): &(&SiteId, &Sharing)| {
            let own = match tensor {
                "lily_A.weight" => sharing.a,
                "lily_B.weight" => sharing.b,
                _ => **site,
            };
            own == *owner && *site != owner
        };
        let others = self.sites.iter().filter(shares);
        others
            .map(|(_, sharing)| format!("{}.{tensor}", sharing.path))
            .collect()
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        Err(AdapterError::NotMergeable {
            method: FORM.method,
            reason: "how its factors are mixed depends on what is read",
        })
    }
}

#[cfg(test)]
mod tests {
    use hybrid_models::{SiteKind, SiteTable};

    use super::{LilyConfig, in_layer};
    use crate::Targets;

    #[test]
    fn neighbours_of_one_name_and_shape_share_factors() {
        let mut sites = SiteTable::default();
        for layer in 0..3 {
            for (name, d_out) in [("a.q", 4), ("b.q", 4), ("v", 8)] {
                let kind = SiteKind::Linear {
                    d_in: 4,
                    d_out,
                    bias: false,
                };
                sites.add(format!("layers.{layer}.{name}"), Some(layer), false, kind);
            }
        }
        let all: Vec<_> = sites.iter().collect();
        let owners = |targets: Targets| -> Vec<[usize; 2]> {
            let config = LilyConfig {
                stride_a: 2,
                target_modules: targets,
                ..LilyConfig::default()
            };
            let sharing = config.sharing(&all, "");
            let owners = sharing.values();
            owners.map(|of| [of.a.index(), of.b.index()]).collect()
        };
        // Six of one name, and three of another shape.
        let by_last_part = vec![
            [0, 0],
            [0, 0],
            [2, 2],
            [3, 0],
            [3, 0],
            [2, 2],
            [6, 0],
            [6, 0],
            [8, 2],
        ];
        assert_eq!(owners(Targets::Pattern(".*".to_owned())), by_last_part);
        assert_eq!(owners(Targets::names(&["q", "v"])), by_last_part);
        let apart = vec![
            [0, 0],
            [1, 1],
            [2, 2],
            [0, 0],
            [1, 1],
            [2, 2],
            [6, 0],
            [7, 1],
            [8, 2],
        ];
        assert_eq!(owners(Targets::names(&["q", "v", "a.q"])), apart);
        assert_eq!(owners(Targets::Pattern("all-linear".to_owned())), apart);
    }

    #[test]
    fn names_of_layers_follow_their_number() {
        for (path, name) in [
            (
                "bert.encoder.layer.11.attention.self.query",
                "attention.self.query",
            ),
            (
                "decoder.block.0.layer.2.DenseReluDense.wo",
                "DenseReluDense.wo",
            ),
            ("bert.pooler.dense", "bert.pooler.dense"),
            ("dense", "dense"),
        ] {
            assert_eq!(in_layer(path), name);
        }
    }
}
