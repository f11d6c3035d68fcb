//! Linear sites that are to get their tensors, with what settings may ask of them.

use std::fmt::Debug;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use hybrid_models::{Layer, Linear, Site, SiteKind};

use crate::AdapterError;
use crate::method::Building;
use crate::pattern_map::PatternMap;
use crate::random::HostRandom;
use crate::site_map::SiteMap;
use crate::targets::{Selection, Selector, ends_with_name};

/// A linear site that is to get its tensors.
pub(crate) struct Place<'a> {
    pub(crate) d_in: usize,
    pub(crate) d_out: usize,
    /// `[d_in, d_out]` of all sites of the method.
    pub(crate) shapes: &'a [[usize; 2]],
    site: &'a Site,
    building: &'a Building<'a>,
    method: &'static str,
}

impl Place<'_> {
    /// The largest `d_in` and the largest `d_out` of the method's sites.
    pub(crate) fn largest(&self) -> [usize; 2] {
        let largest = |side: usize| self.shapes.iter().map(|shape| shape[side]).max();
        [0, 1].map(|side| largest(side).unwrap_or(0))
    }

    /// The numbers for the first values here.
    pub(crate) fn random(&self) -> HostRandom {
        self.building.random(self.site.id)
    }

    /// A trainable tensor with these values.
    pub(crate) fn param<const D: usize>(&self, data: TensorData) -> Param<Tensor<D>> {
        Param::from_data(data, self.building.device)
    }

    /// A trainable tensor with one value everywhere.
    pub(crate) fn filled<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        self.param(TensorData::new(vec![value; shape.iter().product()], shape))
    }

    /// A frozen tensor with these values.
    pub(crate) fn frozen<const D: usize>(&self, data: TensorData) -> Tensor<D> {
        Tensor::from_data(data, &self.device())
    }

    /// Where frozen tensors are.
    pub(crate) fn device(&self) -> Device {
        self.building.device.clone().without_autodiff()
    }

    /// The shape of a tensor of this site in the file that is being read.
    pub(crate) fn stored_shape(&self, key: &str) -> Option<Vec<usize>> {
        let end = format!("{}{}.{key}", self.building.prefix, self.site.path);
        let stored = self.building.stored?;
        let (_, data) = stored.iter().find(|(name, _)| ends_with_name(name, &end))?;
        Some(data.shape().as_slice().to_vec())
    }

    /// The base's own weight, `[d_in, d_out]`.
    pub(crate) fn weight(&self) -> Tensor<2> {
        self.linear().weight.dense().without_autodiff()
    }

    /// The base's own bias, `[d_out]`.
    pub(crate) fn bias(&self) -> Option<Tensor<1>> {
        let bias = self.linear().bias.clone();
        bias.map(Tensor::without_autodiff)
    }

    fn linear(&self) -> &Linear {
        match self.building.base.layer_at(self.site.id) {
            Some(Layer::Linear(linear)) => linear,
            _ => unreachable!("only linear sites are selected"),
        }
    }

    /// The site's path, as patterns of settings see it.
    fn path(&self) -> String {
        format!("{}{}", self.building.prefix, self.site.path)
    }

    /// The value of the first pattern that fits here, or `otherwise`.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub(crate) fn by_pattern<V: Copy>(
        &self,
        key: &'static str,
        patterns: &PatternMap<V>,
        otherwise: V,
    ) -> Result<V, AdapterError> {
        let found = patterns.first(self.method, key, &self.path())?;
        Ok(found.copied().unwrap_or(otherwise))
    }

    /// The value of the first pattern that is found anywhere in the path of the site.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub(crate) fn by_part<V: Copy>(
        &self,
        key: &'static str,
        patterns: &PatternMap<V>,
    ) -> Result<Option<V>, AdapterError> {
        let found = patterns.first_within(self.method, key, &self.path())?;
        Ok(found.copied())
    }

    /// A rank from 1 to `limit`.
    ///
    /// # Errors
    /// [`AdapterError::Setting`] or [`AdapterError::Rank`].
    pub(crate) fn rank(&self, rank: usize, limit: usize) -> Result<usize, AdapterError> {
        if rank == 0 {
            return Err(self.wrong("r", "a rank of 1 or more", rank));
        }
        within(self.site, rank, limit, [self.d_in, self.d_out])
    }

    /// A number that divides all of `sizes`.
    ///
    /// # Errors
    /// [`AdapterError::Setting`].
    pub(crate) fn divisor(
        &self,
        key: &'static str,
        number: usize,
        sizes: &[usize],
    ) -> Result<usize, AdapterError> {
        match number > 0 && sizes.iter().all(|size| size.is_multiple_of(number)) {
            true => Ok(number),
            false => Err(self.wrong(key, "a divisor of the sizes of every adapted layer", number)),
        }
    }

    /// A share of values that are dropped.
    ///
    /// # Errors
    /// [`AdapterError::Setting`].
    pub(crate) fn share(&self, key: &'static str, share: f64) -> Result<f64, AdapterError> {
        match (0.0..1.0).contains(&share) {
            true => Ok(share),
            false => Err(self.wrong(key, "a share from 0 to below 1", share)),
        }
    }

    /// A number that is neither infinite nor none.
    ///
    /// # Errors
    /// [`AdapterError::Setting`].
    pub(crate) fn finite(&self, key: &'static str, number: f64) -> Result<f64, AdapterError> {
        match number.is_finite() {
            true => Ok(number),
            false => Err(self.wrong(key, "a finite number", number)),
        }
    }

    /// The error of a setting that does not fit here.
    pub(crate) fn wrong(
        &self,
        key: &'static str,
        expected: &'static str,
        found: impl Debug,
    ) -> AdapterError {
        let (path, d_in, d_out) = (&self.site.path, self.d_in, self.d_out);
        AdapterError::Setting {
            method: self.method,
            key,
            expected,
            found: format!("{found:?} at {path} of [{d_in}, {d_out}]"),
        }
    }
}

/// One module for each selected linear site; `make` is given those made before.
///
/// # Errors
/// [`AdapterError::NoTarget`], [`AdapterError::UnsupportedTarget`], or those of `make`.
pub(crate) fn at_places<M: Module>(
    selection: Selection<'_>,
    building: &Building<'_>,
    make: impl Fn(&Place<'_>, &[M]) -> Result<M, AdapterError>,
) -> Result<SiteMap<M>, AdapterError> {
    let method = selection.method;
    let sites = building.linear_sites(method, &Selector::new(selection)?)?;
    let shapes: Vec<[usize; 2]> = sites.iter().map(|site| shape(site)).collect();
    let mut made: Vec<M> = Vec::new();
    SiteMap::build(sites, |site| {
        let [d_in, d_out] = shape(site);
        let place = Place {
            d_in,
            d_out,
            shapes: &shapes,
            site,
            building,
            method,
        };
        let module = make(&place, &made)?;
        made.push(module.clone());
        Ok(module)
    })
}

/// A rank up to `limit`, at a site with a weight of this shape.
///
/// # Errors
/// [`AdapterError::Rank`].
pub(crate) fn within(
    site: &Site,
    rank: usize,
    limit: usize,
    [d_in, d_out]: [usize; 2],
) -> Result<usize, AdapterError> {
    match rank <= limit {
        true => Ok(rank),
        false => Err(AdapterError::Rank {
            site: site.path.clone(),
            rank,
            limit,
            d_in,
            d_out,
        }),
    }
}

/// Inputs and outputs of a site that is linear.
pub(crate) fn shape(site: &Site) -> [usize; 2] {
    match site.kind {
        SiteKind::Linear { d_in, d_out, .. } => [d_in, d_out],
        _ => unreachable!("only linear sites are selected"),
    }
}
