//! Which methods may stand in one stack.
//!
//! Methods act in declared order: each wraps the function of the site so far. Values that a method
//! replaces (biases, norms, whole layers) belong to the base under all wrapping, so they can be
//! replaced once only. What needs the base's own weight (DoRA, HiRA, BOFT, MiSS `bat`, PEANuT, DEFT,
//! GLoRA) is declared before all that wraps the site. An unfrozen layer is left alone by every other method, as PEFT leaves
//! `modules_to_save` alone.

use hybrid_models::SiteTable;

use crate::AdapterError;
use crate::method::Method;

/// How two methods get along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// At the same site too.
    Together,
    /// At different sites only.
    Apart(&'static str),
    /// Not at all.
    Never(&'static str),
}

const TWO_SCALES: Rule = Rule::Apart("two scales of one activation are one scale");
const ONE_ASIDE: Rule = Rule::Apart("a layer attends to one adaption prompt");
const ONE_GATE: Rule = Rule::Never("a gate of the one would scale the other's keys too");
const TWO_OWNERS: Rule = Rule::Apart("both replace values of the base there");

/// The rule of an ordered pair of methods.
fn rule(first: &str, second: &str) -> Rule {
    const REPLACING: [&str; 3] = ["bitfit", "layer_norm", "unfreeze"];
    match (first, second) {
        ("ia3", "ia3") => TWO_SCALES,
        ("adaption_prompt", "adaption_prompt") => ONE_ASIDE,
        ("unipelt", "unipelt" | "prefix_tuning" | "cartridge")
        | ("prefix_tuning" | "cartridge", "unipelt") => ONE_GATE,
        (first, second) if REPLACING.contains(&first) && REPLACING.contains(&second) => TWO_OWNERS,
        _ => Rule::Together,
    }
}

/// Checks a whole stack.
///
/// # Errors
/// [`AdapterError::Stacking`] with the first site in dispute.
pub(crate) fn check(stack: &[&dyn Method], sites: &SiteTable) -> Result<(), AdapterError> {
    for (index, first) in stack.iter().enumerate() {
        for second in &stack[index + 1..] {
            let dispute = match rule(first.name(), second.name()) {
                Rule::Apart(reason) => {
                    shared(&first.sites(), &second.sites()).map(|site| (site, reason))
                }
                Rule::Never(reason) => {
                    let sites = [first.sites(), second.sites()].concat();
                    sites.first().map(|site| (*site, reason))
                }
                // LoRA's bias modes replace biases as BitFit does.
                Rule::Together => shared(&first.replaces(), &second.replaces())
                    .map(|site| (site, "both replace values of the base there")),
            };
            let dispute = dispute.or_else(|| {
                let between = shared(&first.wraps(), &second.next_to_base());
                between.map(|site| {
                    (
                        site,
                        "the second needs the base's own weight: declare it first",
                    )
                })
            });
            if let Some((site, reason)) = dispute {
                let site = sites.get(site).path.clone();
                return Err(AdapterError::Stacking {
                    site,
                    first: first.name(),
                    second: second.name(),
                    reason,
                });
            }
        }
    }
    Ok(())
}

fn shared<T: PartialEq + Copy>(first: &[T], second: &[T]) -> Option<T> {
    first.iter().find(|site| second.contains(site)).copied()
}

#[cfg(test)]
mod tests {
    use super::{Rule, rule};
    use crate::config::FORMS;

    #[test]
    fn the_table_of_stackings() {
        let methods = [
            "lora",
            "ia3",
            "bitfit",
            "layer_norm",
            "bottleneck",
            "unfreeze",
        ];
        let together = [
            [true, true, true, true, true, true],
            [true, false, true, true, true, true],
            [true, true, false, false, true, false],
            [true, true, false, false, true, false],
            [true, true, true, true, true, true],
            [true, true, false, false, true, false],
        ];
        for other in ["unipelt", "prefix_tuning", "cartridge"] {
            assert!(matches!(rule("unipelt", other), Rule::Never(_)), "{other}");
            assert!(matches!(rule(other, "unipelt"), Rule::Never(_)), "{other}");
        }
        // What wraps a linear site's function alone stands beside everything.
        for wrapping in ["adalora", "trainable_tokens", "adaption_prompt"] {
            for other in methods {
                assert_eq!(rule(wrapping, other), Rule::Together, "{other}");
                assert_eq!(rule(other, wrapping), Rule::Together, "{other}");
            }
        }
        for (first, row) in methods.iter().zip(together) {
            for (second, together) in methods.iter().zip(row) {
                assert_eq!(
                    rule(first, second) == Rule::Together,
                    together,
                    "{first} then {second}"
                );
            }
            let in_front = [
                "prompt_tuning",
                "prefix_tuning",
                "p_tuning",
                "multitask_prompt_tuning",
                "cartridge",
            ];
            let at_sites = FORMS.iter().map(|form| form.method);
            for other in in_front.into_iter().chain(at_sites) {
                assert_eq!(rule(first, other), Rule::Together, "{first}");
                assert_eq!(rule(other, first), Rule::Together, "{first}");
                assert_eq!(rule(other, other), Rule::Together, "{other}");
            }
        }
    }
}
