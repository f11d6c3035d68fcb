//! The order in which PyTorch lists a model's modules: PEFT deals out in it what sites share.

use hybrid_models::Site;

/// Sites, given in forward order, as Transformers declares them in a model of this type: the same
/// but in BART's attention, where it is key, value, query.
pub(crate) fn in_module_order<'s>(model_type: &str, mut sites: Vec<&'s Site>) -> Vec<&'s Site> {
    if ["bart", "marian"].contains(&model_type) {
        sites.sort_by_key(|site| match site.path.ends_with(".q_proj") {
            true => 2 * site.id.index() + 5,
            false => 2 * site.id.index(),
        });
    }
    sites
}

#[cfg(test)]
mod tests {
    use hybrid_models::{SiteKind, SiteTable};

    use super::in_module_order;

    #[test]
    fn queries_of_bart_come_after_values() {
        let mut sites = SiteTable::default();
        for name in ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"] {
            let kind = SiteKind::Linear {
                d_in: 1,
                d_out: 1,
                bias: true,
            };
            sites.add(format!("layers.0.{name}"), Some(0), false, kind);
        }
        let ends = |model_type: &str| -> Vec<String> {
            let sites = in_module_order(model_type, sites.iter().collect());
            let paths = sites.into_iter().map(|site| site.path.clone());
            paths
                .map(|path| path.trim_start_matches("layers.0.").to_owned())
                .collect()
        };
        let of_bart = ["k_proj", "v_proj", "q_proj", "out_proj", "fc1"];
        assert_eq!(ends("bart"), of_bart);
        let of_llama = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"];
        assert_eq!(ends("llama"), of_llama);
    }
}
