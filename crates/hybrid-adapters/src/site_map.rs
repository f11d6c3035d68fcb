//! One small module for each adapted site.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;
use hybrid_models::{Site, SiteId};

/// Modules by site, in forward order. Parameters are named after the site's path, so parameter
/// groups and checkpoints speak of sites, not of positions.
#[derive(Debug, Clone)]
pub(crate) struct SiteMap<M>(Vec<Entry<M>>);

#[derive(Debug, Clone)]
struct Entry<M> {
    site: SiteId,
    path: String,
    module: M,
}

const CONTAINER: &str = "SiteMap";

impl<M> SiteMap<M> {
    /// No site.
    pub(crate) fn empty() -> Self {
        Self(Vec::new())
    }

    /// One module a site, made by `make`.
    pub(crate) fn build<'s, E>(
        sites: impl IntoIterator<Item = &'s Site>,
        mut make: impl FnMut(&'s Site) -> Result<M, E>,
    ) -> Result<Self, E> {
        let mut entries = Vec::new();
        for site in sites {
            entries.push(Entry {
                site: site.id,
                path: site.path.clone(),
                module: make(site)?,
            });
        }
        entries.sort_by_key(|entry| entry.site);
        Ok(Self(entries))
    }

    /// The module at a site.
    pub(crate) fn get(&self, site: SiteId) -> Option<&M> {
        let index = self
            .0
            .binary_search_by_key(&site, |entry| entry.site)
            .ok()?;
        Some(&self.0[index].module)
    }

    /// The adapted sites in forward order.
    pub(crate) fn sites(&self) -> impl Iterator<Item = SiteId> {
        self.0.iter().map(|entry| entry.site)
    }

    /// Paths and modules in forward order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &M)> {
        self.0
            .iter()
            .map(|entry| (entry.path.as_str(), &entry.module))
    }

    /// The same, to change the modules.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut M)> {
        self.0
            .iter_mut()
            .map(|entry| (entry.path.as_str(), &mut entry.module))
    }

    /// Changed modules at the same sites.
    pub(crate) fn map_each(self, mut change: impl FnMut(&str, M) -> M) -> Self {
        let entries = self.0.into_iter().map(|entry| {
            let module = change(&entry.path, entry.module);
            Entry {
                site: entry.site,
                path: entry.path,
                module,
            }
        });
        Self(entries.collect())
    }
}

impl<M: Module> Module for SiteMap<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.iter().fold(devices, |devices, entry| {
            entry.module.collect_devices(devices)
        })
    }

    fn fork(self, device: &Device) -> Self {
        self.map_each(|_, module| module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_each(|_, module| module.to_device(device))
    }

    fn train(self) -> Self {
        self.map_each(|_, module| module.train())
    }

    fn valid(&self) -> Self {
        self.clone().map_each(|_, module| module.valid())
    }

    fn materialize(self) -> Self {
        self.map_each(|_, module| module.materialize())
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for entry in &self.0 {
            visitor.enter_module(&entry.path, CONTAINER);
            entry.module.visit(visitor);
            visitor.exit_module(&entry.path, CONTAINER);
        }
    }

    fn map<A: ModuleMapper>(self, mapper: &mut A) -> Self {
        self.map_each(|path, module| {
            mapper.enter_module(path, CONTAINER);
            let module = module.map(mapper);
            mapper.exit_module(path, CONTAINER);
            module
        })
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for SiteMap<M> {
    fn content(&self, content: Content) -> Option<Content> {
        self.0
            .iter()
            .fold(content, |content, entry| {
                content.add(&entry.path, &entry.module)
            })
            .optional()
    }
}

impl<M: ModuleDisplay> ModuleDisplay for SiteMap<M> {}
