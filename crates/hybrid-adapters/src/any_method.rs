//! Any one of the methods.

use burn::module::Module;

use crate::adalora::Adalora;
use crate::adamss::Adamss;
use crate::adaption_prompt::AdaptionPrompt;
use crate::beft::Beft;
use crate::bitfit::Bitfit;
use crate::boft::Boft;
use crate::bottleneck::Bottleneck;
use crate::c3a::C3a;
use crate::cartridge::Cartridge;
use crate::compacter::Compacter;
use crate::config::AdapterConfig;
use crate::deft::Deft;
use crate::delora::Delora;
use crate::fourierft::Fourierft;
use crate::glora::Glora;
use crate::gralora::Gralora;
use crate::hira::Hira;
use crate::hra::Hra;
use crate::ia3::Ia3;
use crate::layer_norm::LayerNormTuning;
use crate::lily::Lily;
use crate::loha::Loha;
use crate::lokr::Lokr;
use crate::lora::Lora;
use crate::loreft::Loreft;
use crate::method::{Building, Method};
use crate::miss::Miss;
use crate::multitask_prompt_tuning::MultitaskPromptTuning;
use crate::oft::Oft;
use crate::osf::Osf;
use crate::p_tuning::PTuning;
use crate::peanut::Peanut;
use crate::poly::Poly;
use crate::prefix_tuning::PrefixTuning;
use crate::prompt_tuning::PromptTuning;
use crate::pvera::Pvera;
use crate::randlora::Randlora;
use crate::road::Road;
use crate::shira::Shira;
use crate::site_map::SiteMap;
use crate::tinylora::Tinylora;
use crate::trainable_tokens::TrainableTokens;
use crate::unfreeze::Unfreeze;
use crate::unilora::Unilora;
use crate::unipelt::Unipelt;
use crate::vblora::Vblora;
use crate::vera::Vera;
use crate::waveft::Waveft;
use crate::{AdapterError, site_method};

/// Any one of the methods.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a stack has a handful, and Burn has no boxed modules"
)]
pub(crate) enum AnyMethod {
    Lora(Lora),
    Adalora(Adalora),
    Ia3(Ia3),
    Bitfit(Bitfit),
    LayerNorm(LayerNormTuning),
    Bottleneck(Bottleneck),
    Compacter(Compacter),
    Loreft(Loreft),
    Unipelt(Unipelt),
    Unfreeze(Unfreeze),
    TrainableTokens(TrainableTokens),
    PromptTuning(PromptTuning),
    PrefixTuning(PrefixTuning),
    PTuning(PTuning),
    MultitaskPromptTuning(MultitaskPromptTuning),
    AdaptionPrompt(AdaptionPrompt),
    Cartridge(Cartridge),
    Vera(SiteMap<Vera>),
    Loha(SiteMap<Loha>),
    Lokr(SiteMap<Lokr>),
    Fourierft(SiteMap<Fourierft>),
    Oft(SiteMap<Oft>),
    Boft(SiteMap<Boft>),
    Hra(SiteMap<Hra>),
    Miss(SiteMap<Miss>),
    Randlora(SiteMap<Randlora>),
    Vblora(Vblora),
    Hira(SiteMap<Hira>),
    Delora(SiteMap<Delora>),
    Gralora(SiteMap<Gralora>),
    C3a(SiteMap<C3a>),
    Road(SiteMap<Road>),
    Shira(SiteMap<Shira>),
    Poly(SiteMap<Poly>),
    Pvera(SiteMap<Pvera>),
    Peanut(SiteMap<Peanut>),
    Deft(SiteMap<Deft>),
    Waveft(SiteMap<Waveft>),
    Glora(SiteMap<Glora>),
    Osf(SiteMap<Osf>),
    Adamss(SiteMap<Adamss>),
    Unilora(Unilora),
    Tinylora(Tinylora),
    Beft(Beft),
    Lily(Lily),
}

/// What is in a method, whichever it is.
macro_rules! each {
    ($any:expr, $method:ident => $result:expr) => {
        match $any {
            AnyMethod::Lora($method) => $result,
            AnyMethod::Adalora($method) => $result,
            AnyMethod::TrainableTokens($method) => $result,
            AnyMethod::MultitaskPromptTuning($method) => $result,
            AnyMethod::AdaptionPrompt($method) => $result,
            AnyMethod::Cartridge($method) => $result,
            AnyMethod::Ia3($method) => $result,
            AnyMethod::Bitfit($method) => $result,
            AnyMethod::LayerNorm($method) => $result,
            AnyMethod::Bottleneck($method) => $result,
            AnyMethod::Compacter($method) => $result,
            AnyMethod::Loreft($method) => $result,
            AnyMethod::Unipelt($method) => $result,
            AnyMethod::Unfreeze($method) => $result,
            AnyMethod::PromptTuning($method) => $result,
            AnyMethod::PrefixTuning($method) => $result,
            AnyMethod::PTuning($method) => $result,
            AnyMethod::Vera($method) => $result,
            AnyMethod::Loha($method) => $result,
            AnyMethod::Lokr($method) => $result,
            AnyMethod::Fourierft($method) => $result,
            AnyMethod::Oft($method) => $result,
            AnyMethod::Boft($method) => $result,
            AnyMethod::Hra($method) => $result,
            AnyMethod::Miss($method) => $result,
            AnyMethod::Randlora($method) => $result,
            AnyMethod::Vblora($method) => $result,
            AnyMethod::Hira($method) => $result,
            AnyMethod::Delora($method) => $result,
            AnyMethod::Gralora($method) => $result,
            AnyMethod::C3a($method) => $result,
            AnyMethod::Road($method) => $result,
            AnyMethod::Shira($method) => $result,
            AnyMethod::Poly($method) => $result,
            AnyMethod::Pvera($method) => $result,
            AnyMethod::Peanut($method) => $result,
            AnyMethod::Deft($method) => $result,
            AnyMethod::Waveft($method) => $result,
            AnyMethod::Glora($method) => $result,
            AnyMethod::Osf($method) => $result,
            AnyMethod::Adamss($method) => $result,
            AnyMethod::Unilora($method) => $result,
            AnyMethod::Tinylora($method) => $result,
            AnyMethod::Beft($method) => $result,
            AnyMethod::Lily($method) => $result,
        }
    };
}

impl AnyMethod {
    pub(crate) fn init(
        config: &AdapterConfig,
        building: &Building<'_>,
    ) -> Result<Self, AdapterError> {
        Ok(match config {
            AdapterConfig::Lora(config) => Self::Lora(Lora::init(config, building)?),
            AdapterConfig::Adalora(config) => Self::Adalora(Adalora::init(config, building)?),
            AdapterConfig::Ia3(config) => Self::Ia3(Ia3::init(config, building)?),
            AdapterConfig::Bitfit(config) => Self::Bitfit(Bitfit::init(config, building)?),
            AdapterConfig::LayerNorm(config) => {
                Self::LayerNorm(LayerNormTuning::init(config, building)?)
            }
            AdapterConfig::Bottleneck(config) => {
                Self::Bottleneck(Bottleneck::init(config, building)?)
            }
            AdapterConfig::Compacter(config) => Self::Compacter(Compacter::init(config, building)?),
            AdapterConfig::Loreft(config) => Self::Loreft(Loreft::init(config, building)?),
            AdapterConfig::Unipelt(config) => Self::Unipelt(Unipelt::init(config, building)?),
            AdapterConfig::Unfreeze(config) => Self::Unfreeze(Unfreeze::init(config, building)?),
            AdapterConfig::TrainableTokens(config) => {
                Self::TrainableTokens(TrainableTokens::init(config, building)?)
            }
            AdapterConfig::PromptTuning(config) => {
                Self::PromptTuning(PromptTuning::init(config, building)?)
            }
            AdapterConfig::PrefixTuning(config) => {
                Self::PrefixTuning(PrefixTuning::init(config, building)?)
            }
            AdapterConfig::PTuning(config) => Self::PTuning(PTuning::init(config, building)?),
            AdapterConfig::MultitaskPromptTuning(config) => {
                Self::MultitaskPromptTuning(MultitaskPromptTuning::init(config, building)?)
            }
            AdapterConfig::AdaptionPrompt(config) => {
                Self::AdaptionPrompt(AdaptionPrompt::init(config, building)?)
            }
            AdapterConfig::Cartridge(config) => Self::Cartridge(Cartridge::init(config, building)?),
            AdapterConfig::Vera(config) => Self::Vera(site_method::init(config, building)?),
            AdapterConfig::Loha(config) => Self::Loha(site_method::init(config, building)?),
            AdapterConfig::Lokr(config) => Self::Lokr(site_method::init(config, building)?),
            AdapterConfig::Fourierft(config) => {
                Self::Fourierft(site_method::init(config, building)?)
            }
            AdapterConfig::Oft(config) => Self::Oft(site_method::init(config, building)?),
            AdapterConfig::Boft(config) => Self::Boft(site_method::init(config, building)?),
            AdapterConfig::Hra(config) => Self::Hra(site_method::init(config, building)?),
            AdapterConfig::Miss(config) => Self::Miss(site_method::init(config, building)?),
            AdapterConfig::Randlora(config) => Self::Randlora(site_method::init(config, building)?),
            AdapterConfig::Vblora(config) => Self::Vblora(Vblora::init(config, building)?),
            AdapterConfig::Hira(config) => Self::Hira(site_method::init(config, building)?),
            AdapterConfig::Delora(config) => Self::Delora(site_method::init(config, building)?),
            AdapterConfig::Gralora(config) => Self::Gralora(site_method::init(config, building)?),
            AdapterConfig::C3a(config) => Self::C3a(site_method::init(config, building)?),
            AdapterConfig::Road(config) => Self::Road(site_method::init(config, building)?),
            AdapterConfig::Shira(config) => Self::Shira(site_method::init(config, building)?),
            AdapterConfig::Poly(config) => Self::Poly(site_method::init(config, building)?),
            AdapterConfig::Pvera(config) => Self::Pvera(site_method::init(config, building)?),
            AdapterConfig::Peanut(config) => Self::Peanut(site_method::init(config, building)?),
            AdapterConfig::Deft(config) => Self::Deft(site_method::init(config, building)?),
            AdapterConfig::Waveft(config) => Self::Waveft(site_method::init(config, building)?),
            AdapterConfig::Glora(config) => Self::Glora(site_method::init(config, building)?),
            AdapterConfig::Osf(config) => Self::Osf(site_method::init(config, building)?),
            AdapterConfig::Adamss(config) => Self::Adamss(site_method::init(config, building)?),
            AdapterConfig::Unilora(config) => Self::Unilora(Unilora::init(config, building)?),
            AdapterConfig::Tinylora(config) => Self::Tinylora(Tinylora::init(config, building)?),
            AdapterConfig::Beft(config) => Self::Beft(Beft::init(config, building)?),
            AdapterConfig::Lily(config) => Self::Lily(Lily::init(config, building)?),
        })
    }

    pub(crate) fn as_method(&self) -> &dyn Method {
        each!(self, method => method)
    }

    pub(crate) fn as_method_mut(&mut self) -> &mut dyn Method {
        each!(self, method => method)
    }

    pub(crate) fn encoded(self) -> Self {
        match self {
            Self::PrefixTuning(method) => Self::PrefixTuning(method.encoded()),
            Self::PTuning(method) => Self::PTuning(method.encoded()),
            other => other,
        }
    }
}
