//! Where LoRA's factors start: PEFT's `init_lora_weights`.

use burn::tensor::{Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::decomposition::{Matrix, Singular, leading_qr, singular};
use crate::random::HostRandom;

/// How the factors of linear sites start. All but `Random` start as the base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoraInit {
    /// `true`: `A` uniform in `±1/sqrt(d_in)`, `B` zero.
    #[default]
    Uniform,
    /// `false`: `A` as above, `B` uniform in `±1/sqrt(rank)`: for tests.
    Random,
    /// `gaussian`: `A` normal with deviation `1/rank`, `B` zero.
    Gaussian,
    /// `orthogonal`: random, with `A B = 0`; for even ranks.
    Orthogonal,
    /// `pissa`: the leading singular vectors of the weight (Meng et al. 2024, equations 2 and 3),
    /// which the rest of the weight stands beside.
    Pissa,
    /// `olora`: the leading part of the weight's QR decomposition (Büyükakyüz 2024, section 3), in
    /// the same way.
    Olora,
    /// `eva`: `A` at the leading principal components of what the site sees (Paischer et al. 2024),
    /// `B` zero; see [`ExplainedVariance`](crate::ExplainedVariance). A stack whose values come from
    /// elsewhere starts as with `true`.
    Eva,
}

/// The value of the key: a name or a switch.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Value {
    Switch(bool),
    Name(Name),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Name {
    Gaussian,
    Orthogonal,
    Pissa,
    Olora,
    Eva,
}

impl Serialize for LoraInit {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = match self {
            Self::Uniform => Value::Switch(true),
            Self::Random => Value::Switch(false),
            Self::Gaussian => Value::Name(Name::Gaussian),
            Self::Orthogonal => Value::Name(Name::Orthogonal),
            Self::Pissa => Value::Name(Name::Pissa),
            Self::Olora => Value::Name(Name::Olora),
            Self::Eva => Value::Name(Name::Eva),
        };
        value.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LoraInit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::Switch(true) => Self::Uniform,
            Value::Switch(false) => Self::Random,
            Value::Name(Name::Gaussian) => Self::Gaussian,
            Value::Name(Name::Orthogonal) => Self::Orthogonal,
            Value::Name(Name::Pissa) => Self::Pissa,
            Value::Name(Name::Olora) => Self::Olora,
            Value::Name(Name::Eva) => Self::Eva,
        })
    }
}

impl JsonSchema for LoraInit {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LoraInit".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Value::json_schema(generator)
    }
}

/// First values of one site's factors.
pub(super) struct FirstFactors {
    /// `[d_in, rank]`.
    pub(super) a: TensorData,
    /// `[rank, d_out]`.
    pub(super) b: TensorData,
}

impl LoraInit {
    /// # Shapes
    /// - `weight`: `[d_in, d_out]`
    pub(super) fn factors(
        self,
        weight: impl FnOnce() -> Tensor<2>,
        [d_in, d_out]: [usize; 2],
        rank: usize,
        scale: f64,
        mut random: HostRandom,
    ) -> FirstFactors {
        let zeros = || TensorData::new(vec![0.0f32; rank * d_out], [rank, d_out]);
        let uniform =
            |random: &mut HostRandom| random.uniform([d_in, rank], 1.0 / (d_in as f64).sqrt());
        let (a, b) = match self {
            Self::Uniform | Self::Eva => (uniform(&mut random), zeros()),
            Self::Random => {
                let a = uniform(&mut random);
                (a, random.uniform([rank, d_out], 1.0 / (rank as f64).sqrt()))
            }
            Self::Gaussian => (random.normal([d_in, rank], 1.0 / rank as f64), zeros()),
            Self::Orthogonal => orthogonal([d_in, d_out], rank, random),
            Self::Pissa => {
                let Singular { u, s, v } = singular(&Matrix::of(weight()), rank);
                let roots: Vec<f64> = s.iter().map(|s| (s / scale).sqrt()).collect();
                (
                    data(&u, |_, column| roots[column]),
                    data(&v, |row, _| roots[row]),
                )
            }
            Self::Olora => {
                // Of the weight as PyTorch has it: its Q is the second factor.
                let (q, r) = leading_qr(&Matrix::of(weight()).transposed(), rank);
                (
                    data(&r.transposed(), |_, _| 1.0),
                    data(&q.transposed(), |_, _| 1.0),
                )
            }
        };
        FirstFactors { a, b }
    }

    /// Whether the weight holds the product of the first factors, which is then taken off it.
    pub(super) fn is_of_weight(self) -> bool {
        matches!(self, Self::Pissa | Self::Olora)
    }
}

fn data(matrix: &Matrix, factor: impl Fn(usize, usize) -> f64) -> TensorData {
    let places =
        (0..matrix.rows).flat_map(|row| (0..matrix.columns).map(move |column| (row, column)));
    let values = places
        .map(|(row, column)| (matrix.row(row)[column] * factor(row, column)) as f32)
        .collect::<Vec<f32>>();
    TensorData::new(values, [matrix.rows, matrix.columns])
}

/// Random combinations of one half of an orthonormal basis of the ranks and of the other half, each a
/// tenth as long.
fn orthogonal(
    [d_in, d_out]: [usize; 2],
    rank: usize,
    mut random: HostRandom,
) -> (TensorData, TensorData) {
    let mut normal = |rows: usize, columns: usize| {
        let values = random.normal([rows, columns], 1.0);
        Matrix::new(rows, columns, values.iter::<f64>().collect())
    };
    let (basis, _) = leading_qr(&normal(rank, rank), rank);
    let half = |first: usize| {
        let rows = (first..rank).step_by(2);
        let values: Vec<f64> = rows.flat_map(|row| basis.row(row).to_vec()).collect();
        Matrix::new(rank / 2, rank, values)
    };
    let a = normal(d_in, rank / 2).times_transposed(&half(0).transposed());
    let b = normal(d_out, rank / 2).times_transposed(&half(1).transposed());
    (data(&a, |_, _| 0.1), data(&b.transposed(), |_, _| 0.1))
}
