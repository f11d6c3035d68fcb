//! Sites: the named places in a base where an adapter may act.

/// Identity of a site: its index in the base's [`SiteTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(usize);

impl SiteId {
    /// Index of the site in its table.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What acts at a site, with the sizes an adapter needs to build itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteKind {
    /// A linear layer, `[.., d_in]` to `[.., d_out]`.
    Linear {
        /// Size of the input features.
        d_in: usize,
        /// Size of the output features.
        d_out: usize,
        /// Whether the layer has a bias.
        bias: bool,
    },
    /// A norm over `d_model` features.
    Norm {
        /// Size of the normalised features.
        d_model: usize,
        /// Whether the norm has a shift.
        bias: bool,
    },
    /// A lookup table of `n` vectors.
    Embedding {
        /// Number of vectors.
        n: usize,
        /// Size of one vector.
        d_model: usize,
    },
    /// The output of a sub-layer before its residual connection (bottleneck adapters).
    Block {
        /// Size of the features.
        d_model: usize,
    },
}

/// One named place in a base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Identity within the table.
    pub id: SiteId,
    /// Module path as Transformers names it, e.g. `bert.encoder.layer.0.attention.self.query`.
    pub path: String,
    /// Index of the transformer layer, `None` for embeddings, final norms and heads. The decoder's
    /// layers of an encoder-decoder are counted after the encoder's.
    pub layer: Option<usize>,
    /// Whether the site belongs to a task head rather than to the body.
    pub head: bool,
    /// What acts here.
    pub kind: SiteKind,
}

/// All sites of a base, in the order in which the forward reaches them.
#[derive(Debug, Clone, Default)]
pub struct SiteTable {
    sites: Vec<Site>,
}

impl SiteTable {
    /// Appends a site and returns its identity.
    pub fn add(
        &mut self,
        path: impl Into<String>,
        layer: Option<usize>,
        head: bool,
        kind: SiteKind,
    ) -> SiteId {
        let id = SiteId(self.sites.len());
        self.sites.push(Site {
            id,
            path: path.into(),
            layer,
            head,
            kind,
        });
        id
    }

    /// The site of an identity.
    ///
    /// # Panics
    /// If `id` comes from another table with more sites.
    pub fn get(&self, id: SiteId) -> &Site {
        &self.sites[id.0]
    }

    /// The site whose module path equals `path`.
    pub fn find(&self, path: &str) -> Option<&Site> {
        self.sites.iter().find(|site| site.path == path)
    }

    /// All sites in forward order.
    pub fn iter(&self) -> impl Iterator<Item = &Site> {
        self.sites.iter()
    }

    /// Number of sites.
    pub fn len(&self) -> usize {
        self.sites.len()
    }

    /// Whether there is no site.
    pub fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }
}
