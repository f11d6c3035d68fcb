//! PyTorch checkpoints, read by Burn's own reader (no code of the file is run).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::store::pytorch_reader::{PytorchError, PytorchReader};

use super::stored_tensor::{StoredTensor, StoredValues};
use crate::ModelError;

/// Lists the tensors of a file; values stay in it until they are read.
pub(super) fn open(path: &Path) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let reader = PytorchReader::new(path).map_err(|error| match error {
        PytorchError::Io(source) if source.kind() != std::io::ErrorKind::InvalidData => {
            ModelError::Read {
                path: path.to_owned(),
                source,
            }
        }
        source => ModelError::CorruptPytorch {
            path: path.to_owned(),
            source,
        },
    })?;
    let file: Arc<Path> = path.into();
    let tensors = reader.into_tensors().into_iter().map(|(name, tensor)| {
        let shape = tensor.shape().to_vec();
        (
            name,
            StoredTensor {
                file: file.clone(),
                shape,
                values: StoredValues::Pytorch(tensor),
            },
        )
    });
    Ok(tensors.collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::path::Path;

    use half::f16;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use crate::ModelError;
    use crate::checkpoint::Checkpoint;

    /// A tensor as `torch.save` writes it: name, storage class, shape and bytes.
    type Saved<'a> = (&'a str, &'a str, [i32; 2], Vec<u8>);

    /// The pickle of a dictionary of tensors, opcode by opcode (protocol 2).
    fn pickle(tensors: &[Saved]) -> Vec<u8> {
        let text = |text: &str| {
            let mut bytes = vec![b'X'];
            bytes.extend((text.len() as u32).to_le_bytes());
            bytes.extend(text.as_bytes());
            bytes
        };
        let int = |value: i32| [&b"J"[..], &value.to_le_bytes()].concat();
        let mut out = b"\x80\x02}(".to_vec();
        for (index, (name, storage, [rows, columns], _)) in tensors.iter().enumerate() {
            out.extend(text(name));
            out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
            out.extend(text("storage"));
            out.extend(format!("ctorch\n{storage}\n").as_bytes());
            out.extend(text(&index.to_string()));
            out.extend(text("cpu"));
            out.extend(int(rows * columns));
            out.extend(b"tQ");
            out.extend(int(0));
            out.extend([&b"("[..], &int(*rows), &int(*columns), b"t("].concat());
            out.extend(
                [
                    &int(*columns)[..],
                    &int(1),
                    b"t\x89ccollections\nOrderedDict\n)RtR",
                ]
                .concat(),
            );
        }
        out.extend(b"u.");
        out
    }

    fn save(path: &Path, tensors: &[Saved]) {
        let mut archive = ZipWriter::new(File::create(path).unwrap());
        let options =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        let mut add = |name: &str, bytes: &[u8]| {
            archive
                .start_file(format!("archive/{name}"), options)
                .unwrap();
            archive.write_all(bytes).unwrap();
        };
        add("data.pkl", &pickle(tensors));
        add("byteorder", b"little");
        for (index, (.., bytes)) in tensors.iter().enumerate() {
            add(&format!("data/{index}"), bytes);
        }
        add("version", b"3\n");
        archive.finish().unwrap();
    }

    const VALUES: [f32; 6] = [1.5, -2.0, 0.25, 8.0, -0.5, 3.0];

    fn tensors() -> [Saved<'static>; 3] {
        let single = VALUES
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let half = VALUES
            .iter()
            .flat_map(|value| f16::from_f32(*value).to_le_bytes())
            .collect();
        let ids = (0..6i64).flat_map(i64::to_le_bytes).collect();
        [
            ("a.weight", "FloatStorage", [2, 3], single),
            ("x.LayerNorm.gamma", "HalfStorage", [1, 6], half),
            ("ids", "LongStorage", [1, 6], ids),
        ]
    }

    #[test]
    fn tensors_are_read_as_float32() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("pytorch_model.bin"), &tensors());
        let mut checkpoint = Checkpoint::open(folder.path()).unwrap();
        let weight = checkpoint.take("a.weight", &[2, 3]).unwrap();
        assert_eq!(weight.iter::<f32>().collect::<Vec<_>>(), VALUES);
        let gain = checkpoint.take("x.LayerNorm.weight", &[1, 6]).unwrap();
        assert_eq!(gain.iter::<f32>().collect::<Vec<_>>(), VALUES);
        let error = checkpoint.take("ids", &[1, 6]).unwrap_err();
        assert!(
            matches!(&error, ModelError::WrongDtype { name, .. } if name == "ids"),
            "{error}"
        );
    }

    #[test]
    fn faults_name_the_tensor_and_both_shapes() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("pytorch_model.bin"), &tensors());
        let error = Checkpoint::open(folder.path())
            .unwrap()
            .take("a.weight", &[3, 2])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`a.weight`: expected shape [3, 2], found [2, 3]"),
            "{error}"
        );
    }

    #[test]
    fn every_truncation_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pytorch_model.bin");
        save(&path, &tensors());
        let whole = std::fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(7) {
            std::fs::write(&path, &whole[..length]).unwrap();
            let error = Checkpoint::open(folder.path()).unwrap_err();
            assert!(
                matches!(
                    &error,
                    ModelError::CorruptPytorch { .. } | ModelError::Read { .. }
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn shards_are_read_through_their_index() {
        let folder = tempfile::tempdir().unwrap();
        save(&folder.path().join("one.bin"), &tensors()[..1]);
        let index = r#"{"weight_map": {"a.weight": "one.bin"}}"#;
        std::fs::write(folder.path().join("pytorch_model.bin.index.json"), index).unwrap();
        let mut checkpoint = Checkpoint::open(folder.path()).unwrap();
        checkpoint.take("a.weight", &[2, 3]).unwrap();
        checkpoint.finish(|_| false).unwrap();
    }
}
