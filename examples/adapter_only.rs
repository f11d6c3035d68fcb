//! Parameter-efficient fine-tuning alone: a LoRA and a classifier head over a frozen encoder, with a
//! training loop of one's own.
//!
//! `cargo run --example adapter_only`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;

use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor};
use hybrid_adapters::{
    AdapterConfig, Adapters, ClassifierHead, HeadConfig, HeadForm, LoraConfig, Targets, Trainable,
};
use hybrid_data::{
    BatchLimits, BatchOrder, FieldMapping, LabelSet, Tokenizer, length_buckets, pad, read_examples,
};
use hybrid_models::{Base, EncoderBatch, Model, Pooling, Resolver, open_device};
use hybrid_optim::{OptimizerConfig, ScheduleConfig, Updater, cross_entropy_sum};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mapping = FieldMapping::new([("text", "text")], Some("label"));
    let fit = read_examples(Path::new("data/banking77/fit.jsonl"), &mapping)?;
    let labels = LabelSet::of(&fit)?;
    let targets = labels.targets(&fit)?;

    let device = open_device("flex")?;
    let resolved = Resolver::from_environment()
        .resolve("sentence-transformers/all-MiniLM-L6-v2", &|line| {
            eprintln!("{line}")
        })?;
    let base = Model::load_encoder(&resolved.folder, &device)?;
    let tokenizer = Tokenizer::from_file(&resolved.folder.join("tokenizer.json"), 64)?;
    let texts: Vec<String> = fit
        .iter()
        .map(|example| example.fields["text"].clone())
        .collect();
    let encodings = tokenizer.encode(&texts)?;

    let lora = LoraConfig {
        r: 8,
        lora_alpha: 16.0,
        target_modules: Targets::names(&["query", "value"]),
        ..Default::default()
    };
    let head = HeadConfig {
        pooling: Pooling::Mean,
        normalize: false,
        scale: 1.0,
        form: HeadForm::Linear,
    };
    let mut trainable = Trainable {
        adapters: Adapters::init(&[AdapterConfig::Lora(lora)], &base, 42, &device)?,
        head: Some(ClassifierHead::init(
            head,
            base.encoder.d_model(),
            labels.len(),
            42,
            &device,
        )),
        span_head: None,
    }
    .train_on(&device.clone().autodiff());
    println!(
        "{} of {} parameters are trained",
        trainable.n_parameters(),
        base.n_parameters()
    );

    let lengths: Vec<usize> = encodings
        .iter()
        .map(|encoding| encoding.ids.len())
        .collect();
    let limits = BatchLimits {
        max_rows: 16,
        max_tokens: 1024,
    };
    let batches = length_buckets(&lengths, limits, BatchOrder::Shuffled(42));
    let optimizer = OptimizerConfig::Adamw {
        lr: 1e-3,
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.01,
    };
    let mut updater = Updater::new(
        optimizer,
        &[],
        ScheduleConfig::default(),
        Some(1.0),
        batches.len(),
        &trainable,
    )?;
    for rows in &batches {
        let padded = pad(&encodings, rows, tokenizer.pad_id());
        let ints = |values: &[u32]| {
            let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
            Tensor::<1, Int>::from_data(values.as_slice(), &device)
                .reshape([rows.len(), padded.seq])
        };
        let batch = EncoderBatch {
            input_ids: ints(&padded.ids),
            attention_mask: ints(&padded.mask),
            token_type_ids: Some(ints(&padded.type_ids)),
        };
        let hidden = base.encoder.forward(&batch, &trainable.adapters);
        let pooled = base.pool(hidden, &batch, Pooling::Mean, &trainable.adapters)?;
        let logits = trainable.head.as_ref().expect("set above").forward(pooled);
        let wanted: Vec<i32> = rows.iter().map(|row| targets[*row] as i32).collect();
        let wanted = Tensor::<1, Int>::from_data(wanted.as_slice(), &device);
        let loss = cross_entropy_sum(logits, wanted, 0.0).div_scalar(rows.len() as f64);
        let shown: f32 = loss.clone().into_scalar();
        let mut gradients = loss.backward();
        updater.accumulate(GradientsParams::from_module(&mut gradients, &trainable));
        let (moved, report) = updater.step(trainable)?;
        trainable = moved;
        println!(
            "step {:3}  loss {shown:.4}  gradient norm {:.3}",
            report.step, report.grad_norm
        );
    }
    Ok(())
}
