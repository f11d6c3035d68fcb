//! Temporary measurement.
#![allow(missing_docs, clippy::print_stdout)]
use std::time::Instant;
use burn::tensor::{Device, Distribution, Int, Tensor, activation, module};
use hybrid_models::*;

fn cpu() -> f64 {
    std::fs::read_dir("/proc/self/task").unwrap().map(|t| {
        let s = std::fs::read_to_string(t.unwrap().path().join("schedstat")).unwrap_or_default();
        s.split(' ').next().and_then(|x| x.parse::<f64>().ok()).unwrap_or(0.0) / 1e9 }).sum()
}
fn time(name: &str, n: usize, mut f: impl FnMut()) {
    f();
    let (mut best, mut bc) = (f64::MAX, f64::MAX);
    for _ in 0..n {
        let t = Instant::now();
        let c = cpu();
        f();
        bc = bc.min(cpu() - c);
        best = best.min(t.elapsed().as_secs_f64());
    }
    println!("{name:40} wall {:8.2} ms  cpu {:8.2} ms   {}", best * 1e3, bc * 1e3, rss().split("VmRSS:").nth(1).unwrap().split("kB").next().unwrap().trim());
}

struct Lora { a: Vec<Option<(Tensor<2>, Tensor<2>)>> }
impl Hooks for Lora {
    fn linear(&self, base: &Linear, x: Tensor<3>) -> Tensor<3> {
        match &self.a[base.site.index()] {
            None => base.forward(x),
            Some((a, b)) => base.forward(x.clone()) + linear(linear(x, a.clone(), None), b.clone(), None),
        }
    }
}

fn rss() -> String {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    s.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS") || l.starts_with("RssFile")).collect::<Vec<_>>().join(" ")
}

fn main() {
    let device = Device::flex();
    let t = Instant::now();
    let model = Model::load_encoder(std::path::Path::new(&std::env::var("HYBRID_MINILM").unwrap()), &device).unwrap();
    println!("load {:.1} ms {}", t.elapsed().as_secs_f64() * 1e3, rss());
    let ad = device.clone().autodiff();
    for seq in [16usize, 32] {
        let b = 32;
        let batch = EncoderBatch {
            input_ids: Tensor::<2, Int>::random([b, seq], Distribution::Uniform(5.0, 30000.0), &device),
            attention_mask: Tensor::ones([b, seq], &device),
            token_type_ids: None,
        };
        time(&format!("forward 32x{seq}"), 5, || { model.encoder.forward(&batch, &NoHooks).into_data(); });
        let lora = |low: usize| Lora { a: model.sites().iter().map(|s| {
            if (s.path.ends_with("query") || s.path.ends_with("value")) && s.layer.unwrap() >= low {
                Some((Tensor::random([384, 8], Distribution::Normal(0.0, 0.05), &ad).require_grad(), Tensor::<2>::zeros([8, 384], &ad).require_grad()))
            } else { None } }).collect() };
        let l = lora(0);
        time(&format!("lora fwd+bwd 32x{seq}"), 5, || {
            let y = model.encoder.forward(&batch, &l).sum(); let g = y.backward(); std::hint::black_box(&g); });
        let l = lora(3);
        time(&format!("lora top half fwd+bwd 32x{seq}"), 5, || {
            let y = model.encoder.forward(&batch, &l).sum(); let g = y.backward(); std::hint::black_box(&g); });
        println!("{}", rss());
        let rows = b * seq;
        let x = Tensor::<2>::random([rows, 384], Distribution::Normal(0.0, 1.0), &device);
        let wt = Tensor::<2>::random([384, 384], Distribution::Normal(0.0, 1.0), &device).transpose();
        let wc = Tensor::<2>::random([384, 384], Distribution::Normal(0.0, 1.0), &device);
        let up = Tensor::<2>::random([1536, 384], Distribution::Normal(0.0, 1.0), &device).transpose();
        let h = Tensor::<2>::random([rows, 1536], Distribution::Normal(0.0, 1.0), &device);
        let bias = Tensor::<1>::random([1536], Distribution::Normal(0.0, 1.0), &device);
        time("matmul 384x384 W^T view", 20, || { x.clone().matmul(wt.clone()); });
        time("matmul 384x384 W contiguous", 20, || { x.clone().matmul(wc.clone()); });
        time("matmul 384x1536 W^T view", 20, || { x.clone().matmul(up.clone()); });
        time("matmul 1536x384 (dx of up)", 20, || { h.clone().matmul(up.clone().transpose()); });
        time("module::linear 3d", 20, || { module::linear(x.clone().reshape([b, seq, 384]), wt.clone(), None); });
        time("gelu shared", 20, || { activation::gelu(h.clone()); });
        time("gelu in place (incl. add)", 20, || { activation::gelu(h.clone() + 0.0); });
        time("gelu tanh", 20, || { activation::gelu_approximate(h.clone()); });
        time("relu", 20, || { activation::relu(h.clone()); });
        time("exp", 20, || { h.clone().exp(); });
        time("tanh", 20, || { h.clone().tanh(); });
        time("erf", 20, || { h.clone().erf(); });
        time("add h+h", 20, || { let _ = h.clone() + h.clone(); });
        time("mul scalar", 20, || { let _ = h.clone() * 2.0; });
        time("bias add", 20, || { let _ = h.clone() + bias.clone().unsqueeze(); });
        let g = Tensor::<1>::ones([384], &device);
        let x3 = x.clone().reshape([b, seq, 384]);
        time("layer_norm", 20, || { module::layer_norm(x3.clone(), g.clone(), Some(g.clone()), 1e-12); });
        let q = Tensor::<4>::random([b, seq, 12, 32], Distribution::Normal(0.0, 1.0), &device).swap_dims(1, 2);
        let mask = Tensor::<4>::zeros([b, 1, 1, seq], &device);
        time("module::attention", 20, || { module::attention(q.clone(), q.clone(), q.clone(), None, Some(mask.clone()), Default::default()); });
        time("scores matmul", 20, || { q.clone().matmul(q.clone().transpose()); });
        let s = q.clone().matmul(q.clone().transpose());
        time("softmax", 20, || { activation::softmax(s.clone(), 3); });
        time("scores+mask", 20, || { let _ = s.clone() + mask.clone(); });
        time("s@v", 20, || { s.clone().matmul(q.clone()); });
        time("unsplit", 20, || { let _ = q.clone().reshape([b, seq, 384]); });
        let o = s.clone().matmul(q.clone());
        time("merge heads", 20, || { let _ = o.clone().swap_dims(1, 2).reshape([b, seq, 384]); });
        // autodiff pieces
        let track = |t: Tensor<2>| Tensor::<2>::from_data(t.into_data(), &ad).require_grad();
        let xt = track(x.clone());
        let ht = track(h.clone());
        time("ad layer_norm f+b", 10, || { module::layer_norm(xt.clone().reshape([b, seq, 384]), g.clone(), Some(g.clone()), 1e-12).sum().backward(); });
        time("ad gelu f+b", 10, || { activation::gelu(ht.clone()).sum().backward(); });
        time("ad linear up f+b", 10, || { xt.clone().matmul(up.clone()).sum().backward(); });
        time("ad linear 384 f+b", 10, || { xt.clone().matmul(wt.clone()).sum().backward(); });
        time("ad softmax f+b", 10, || { let s = Tensor::<4>::from_data(s.clone().into_data(), &ad).require_grad(); activation::softmax(s, 3).sum().backward(); });
        time("ad h+h f+b", 10, || { (ht.clone() + ht.clone()).sum().backward(); });
        time("ad h sum f+b", 10, || { ht.clone().sum().backward(); });
    }
    println!("{}", rss());
}
