//! The seam of methods that act on linear layers: a few tensors for each site, and one function of
//! rows that they are.
//!
//! A method's file has its settings ([`site_settings`]), its tensors with their first values, and
//! the function ([`SiteMethod::act`]). Wrapping the layer, merging, naming and storing are done
//! here.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use hybrid_models::{Linear, SiteId};
use serde::Serializer;
use serde_json::{Map, Value};

use crate::AdapterError;
use crate::lora::dropped_rows;
use crate::method::{Building, Inner, Kept, Method, Pass, PeftName};
use crate::site_map::SiteMap;
use crate::site_place::{Place, at_places};
use crate::targets::Selection;

/// Where the function of a site's tensors stands to the function `f` of the layer so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// `f(x) + act(x)`.
    Beside,
    /// `f(act(x))`.
    Before,
    /// `act(f(x))`.
    After,
}

/// The tensors of one site, named as PEFT names them and with its shapes.
pub(crate) trait SiteMethod: Module {
    /// The method's settings.
    type Config: SiteConfig;

    /// How PEFT's files have the method.
    const FORM: &'static PeftForm;

    /// Where [`SiteMethod::act`] stands.
    const ACT: Act;

    /// Whether [`SiteMethod::act`], beside a layer with bias, also adds the same to all rows.
    const SHIFTS: bool = false;

    /// Fields that PEFT names otherwise, with dots where they are within others.
    const RENAMED: &'static [(&'static str, &'static str)] = &[];

    /// First values at a site. `made` are the tensors of the sites before: frozen ones among them
    /// can be shared.
    ///
    /// # Errors
    /// [`AdapterError::Rank`], [`AdapterError::Setting`] or [`AdapterError::Pattern`].
    fn init(config: &Self::Config, place: &Place<'_>, made: &[Self]) -> Result<Self, AdapterError>;

    /// The function, linear in the rows but for what [`SiteMethod::SHIFTS`] says.
    ///
    /// # Shapes
    /// - `rows`: `[rows, d_in]` → `[rows, d_out]` beside, `[rows, d_in]` → the same before,
    ///   `[rows, d_out]` → the same after
    fn act(&self, base: &Linear, rows: Tensor<2>, pass: Pass) -> Tensor<2>;

    /// Whether [`SiteMethod::act`] needs the base's own weight: no method may wrap between.
    fn next_to_base(&self) -> bool {
        false
    }

    /// Whether the base's weights can hold it.
    ///
    /// # Errors
    /// [`AdapterError::NotMergeable`].
    fn mergeable(&self) -> Result<(), AdapterError> {
        Ok(())
    }

    /// Wraps the function of the site so far.
    fn forward(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        let act = |x| in_rows(x, |rows| self.act(base, rows, pass));
        match Self::ACT {
            Act::Beside => inner(x.clone()) + act(x),
            Act::Before => inner(act(x)),
            Act::After => act(inner(x)),
        }
    }

    /// The layer that alone computes what [`SiteMethod::forward`] around `inner` computes.
    fn merge(&self, inner: Linear) -> Linear {
        let weight = inner.weight.dense();
        let act = |rows| self.act(&inner, rows, Pass::Inference);
        let [d_in, _] = weight.dims();
        let whole = || Tensor::<2>::eye(d_in, &weight.device());
        let (weight, bias) = match Self::ACT {
            Act::Beside if Self::SHIFTS => {
                let shift = act(whole().slice([0..1, 0..d_in]).zeros_like());
                let bias = inner.bias.clone();
                let bias = bias.map(|bias| bias + shift.clone().squeeze_dim(0));
                (weight.clone() + act(whole()) - shift, bias)
            }
            Act::Beside => (weight.clone() + act(whole()), inner.bias.clone()),
            Act::Before => (act(whole()).matmul(weight), inner.bias.clone()),
            Act::After => {
                let bias = inner.bias.clone();
                let bias = bias.map(|bias| act(bias.unsqueeze::<2>()).squeeze_dim(0));
                (act(weight), bias)
            }
        };
        Linear {
            weight: weight.into(),
            bias,
            site: inner.site,
        }
    }

    /// Frozen tensors that PEFT's files hold.
    fn kept(&self) -> Vec<KeptTensor> {
        Vec::new()
    }

    /// Takes a frozen tensor, by the key and in the shape that [`SiteMethod::kept`] gives it.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] for values that make no sense.
    fn keep(&mut self, _key: &str, _data: &TensorData) -> Result<(), AdapterError> {
        Ok(())
    }
}

/// A frozen tensor of a file.
pub(crate) struct KeptTensor {
    pub(crate) key: &'static str,
    pub(crate) data: TensorData,
    pub(crate) owner: Owner,
}

/// Whose a frozen tensor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// One site's.
    Site,
    /// That of all sites.
    All,
    /// That of all sites, and PEFT stores it again for each.
    AllAndEach,
}

/// Settings of a method of this kind.
pub(crate) trait SiteConfig {
    /// The keys that select sites.
    fn selection(&self) -> Selection<'_>;

    /// How PEFT's files have the method.
    fn form(&self) -> &'static PeftForm;

    /// All settings that are not left out, by key.
    fn values(&self) -> Map<String, Value>;
}

/// How PEFT's `adapter_config.json` describes a method.
#[derive(Debug)]
pub(crate) struct PeftForm {
    /// The method's name here.
    pub(crate) method: &'static str,
    pub(crate) peft_type: &'static str,
    /// Keys that are the settings' own, with the same meaning.
    pub(crate) keys: &'static [&'static str],
    /// Keys that say nothing about what stored tensors compute, and what is written for them.
    pub(crate) neutral: &'static [(&'static str, Written)],
    /// Keys that change the result, and their only value that this version has.
    pub(crate) only: &'static [(&'static str, Written)],
    /// Whether the file says in which order weights are stored.
    pub(crate) fan_in_fan_out: bool,
}

/// A value of `adapter_config.json`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Written {
    Nothing,
    Flag(bool),
    Number(f64),
    Whole(i64),
    Text(&'static str),
}

impl Written {
    pub(crate) fn value(self) -> Value {
        match self {
            Self::Nothing => Value::Null,
            Self::Flag(flag) => flag.into(),
            Self::Number(number) => number.into(),
            Self::Whole(number) => number.into(),
            Self::Text(text) => text.into(),
        }
    }
}

/// Biases stay the base's.
pub(crate) const NO_BIAS: (&str, Written) = ("bias", Written::Text("none"));

/// Stored tensors do not depend on how they began.
pub(crate) const ANY_START: (&str, Written) = ("init_weights", Written::Flag(true));

/// A number as PEFT writes those that it means to be whole.
pub(crate) fn whole<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match number.fract() == 0.0 && number.abs() < 1e15 {
        true => serializer.serialize_i64(*number as i64),
        false => serializer.serialize_f64(*number),
    }
}

/// Declares the settings of a method: its own keys with their defaults, and those that select
/// sites; after `on` the targets by default, where those are not queries and values.
macro_rules! site_settings {
    (@targets) => { $crate::Targets::queries_and_values() };
    (@targets $targets:expr) => { $targets };
    (
        $(#[$about:meta])*
        $config:ident as $form:ident $(on ($targets:expr))? {
            $($(#[$about_key:meta])* $key:ident: $kind:ty = $default:expr,)*
        }
    ) => {
        $(#[$about])*
        #[derive(
            Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        #[serde(deny_unknown_fields, default)]
        pub struct $config {
            $($(#[$about_key])* pub $key: $kind,)*
            /// Linear layers to adapt.
            pub target_modules: $crate::Targets,
            /// Layers that are left out.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub exclude_modules: Option<$crate::Targets>,
            /// Transformer layers to act on; all when left out.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub layers_to_transform: Option<Vec<usize>>,
            /// Names before the layer index in a path; found by themselves when left out.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub layers_pattern: Option<Vec<String>>,
        }

        impl Default for $config {
            /// PEFT's defaults; targets whatever the architecture calls them.
            fn default() -> Self {
                Self {
                    $($key: $default,)*
                    target_modules: $crate::site_method::site_settings!(@targets $($targets)?),
                    exclude_modules: None,
                    layers_to_transform: None,
                    layers_pattern: None,
                }
            }
        }

        impl $crate::site_method::SiteConfig for $config {
            fn selection(&self) -> $crate::targets::Selection<'_> {
                $crate::targets::Selection {
                    method: self.form().method,
                    targets: Some(&self.target_modules),
                    exclude: self.exclude_modules.as_ref(),
                    layers: self.layers_to_transform.as_deref(),
                    layers_pattern: self.layers_pattern.as_deref(),
                }
            }

            fn form(&self) -> &'static $crate::site_method::PeftForm {
                &$form
            }

            fn values(&self) -> serde_json::Map<String, serde_json::Value> {
                match serde_json::to_value(self) {
                    Ok(serde_json::Value::Object(values)) => values,
                    _ => unreachable!("settings are an object"),
                }
            }
        }
    };
}
pub(crate) use site_settings;

/// A function of rows on all positions of a batch.
///
/// # Shapes
/// - `x`: `[batch, seq, width]` → `[batch, seq, width of the function]`
pub(crate) fn in_rows(x: Tensor<3>, act: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<3> {
    let [batch, seq, width] = x.dims();
    let rows = act(x.reshape([batch * seq, width]));
    let [_, width] = rows.dims();
    rows.reshape([batch, seq, width])
}

/// Rows with a share of their values dropped and the rest scaled up, while training.
///
/// # Shapes
/// - `rows`: `[rows, width]` → the same
pub(crate) fn dropped(rows: Tensor<2>, share: f64, base: &Linear, pass: Pass) -> Tensor<2> {
    match dropped_rows(rows, share, base.site, pass) {
        (rows, 1.0) => rows,
        (rows, up) => rows.mul_scalar(up),
    }
}

/// The tensors of all selected sites with their first values.
///
/// # Errors
/// [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`], or as [`SiteMethod::init`].
pub(crate) fn init<S: SiteMethod>(
    config: &S::Config,
    building: &Building<'_>,
) -> Result<SiteMap<S>, AdapterError> {
    at_places(config.selection(), building, |place, made| {
        S::init(config, place, made)
    })
}

impl<S: SiteMethod> Method for SiteMap<S> {
    fn name(&self) -> &'static str {
        S::FORM.method
    }

    fn sites(&self) -> Vec<SiteId> {
        SiteMap::sites(self).collect()
    }

    fn wraps(&self) -> Vec<SiteId> {
        Method::sites(self)
    }

    fn next_to_base(&self) -> Vec<SiteId> {
        let needs = |site: &SiteId| self.get(*site).is_some_and(S::next_to_base);
        SiteMap::sites(self).filter(needs).collect()
    }

    fn linear(&self, base: &Linear, x: Tensor<3>, pass: Pass, inner: Inner<'_>) -> Tensor<3> {
        match self.get(base.site) {
            Some(tensors) => tensors.forward(base, x, pass, inner),
            None => inner(x),
        }
    }

    fn merge_linear(&self, inner: Linear) -> Result<Linear, AdapterError> {
        Ok(match self.get(inner.site) {
            Some(tensors) => tensors.merge(inner),
            None => inner,
        })
    }

    fn mergeable(&self) -> Result<(), AdapterError> {
        let mut sites = self.iter();
        sites.try_for_each(|(_, tensors)| tensors.mergeable())
    }

    fn peft_name(&self, name: &str) -> Option<PeftName> {
        let renamed = S::RENAMED.iter().find_map(|(own, theirs)| {
            let (path, rest) = name.rsplit_once(&format!(".{own}"))?;
            let is_whole = rest.is_empty() || rest.starts_with('.');
            is_whole.then(|| format!("{path}.{theirs}{rest}"))
        });
        let key = renamed.unwrap_or_else(|| name.to_owned());
        let stored = key.clone();
        Some(PeftName { key, stored })
    }

    fn kept(&self) -> Vec<Kept> {
        let mut all = Vec::new();
        for (index, (path, tensors)) in self.iter().enumerate() {
            for KeptTensor { key, data, owner } in tensors.kept() {
                let at_site = format!("{path}.{key}");
                if owner == Owner::Site {
                    all.push(Kept::needed(at_site, data));
                    continue;
                }
                if index == 0 {
                    all.push(Kept::needed(Kept::of_all_sites(key), data.clone()));
                }
                if owner == Owner::AllAndEach {
                    all.push(Kept {
                        stored: at_site,
                        data,
                        again: true,
                    });
                }
            }
        }
        all
    }

    fn keep(&mut self, stored: &str, data: &TensorData) -> Result<(), AdapterError> {
        let shared = stored.strip_prefix(&Kept::of_all_sites(""));
        for (path, tensors) in self.iter_mut() {
            let at_site = || stored.strip_prefix(path)?.strip_prefix('.');
            if let Some(key) = shared.or_else(at_site) {
                tensors.keep(key, data)?;
            }
        }
        Ok(())
    }
}
