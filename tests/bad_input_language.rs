//! What a language model cannot read, say or learn: refused before a run where that shows, told of
//! where work goes on, never a panic.

use serde_json::{Value, json};

use crate::bad_input::refused;
use crate::tiny_model;
use crate::tiny_task::{TinyTask, hybrid, messages, printed};

/// The language task with little around its inputs, so that small contexts are enough.
fn plain() -> TinyTask {
    let task = TinyTask::language();
    task.edit_recipe("[\"\", \"please help\"]", "[\"\"]");
    task.edit_recipe("[\"plain\", \"chat\"]", "[\"plain\"]");
    task.edit_recipe(
        "name = \"prompt-again\"\n",
        "name = \"prompt-again\"\ninstructions = [\"\"]\n",
    );
    task.edit_recipe("epochs = 10", "epochs = 1");
    task
}

/// Changes a row of a file of examples, counted from 1.
fn change_row(task: &TinyTask, name: &str, line: usize, change: impl FnOnce(&mut Value)) {
    let text = std::fs::read_to_string(task.file(name)).unwrap();
    let mut rows: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    change(&mut rows[line - 1]);
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(task.file(name), lines.concat()).unwrap();
}

/// The template has 4 tokens, an input 4 and a label word 1.
#[test]
fn inputs_that_are_too_long_are_cut_and_counted() {
    let task = plain();
    let long = "my card is lost please help why question the";
    for name in ["fit.jsonl", "select.jsonl", "report.jsonl"] {
        change_row(&task, name, 1, |row| row["text"] = long.into());
    }
    let set = ["--set", "base.max_length=9"];
    let said = messages(&task.train("a").args(set).assert().success());
    for line in [
        "1 of 9 select inputs are cut: their prompts are too long",
        "1 of 24 fit inputs are cut: their prompts are too long",
        "1 of 18 report inputs are cut: their prompts are too long",
    ] {
        assert!(said.contains(line), "{line:?} is not in: {said}");
    }
    let artifact = task.file("a/artifact");
    let eval = hybrid().arg("eval").arg(&artifact).assert().success();
    let said = messages(&eval);
    assert!(said.contains("1 inputs are cut"), "{said}");
    let predict = hybrid()
        .arg("predict")
        .arg(&artifact)
        .write_stdin(format!("my fee\n{long}\n{long} again\n"))
        .assert()
        .success();
    assert_eq!(printed(&predict).lines().count(), 3);
    let said = messages(&predict);
    assert!(said.contains("2 inputs are cut"), "{said}");
}

#[test]
fn prompts_that_leave_no_room_for_an_input_are_refused_by_name() {
    let task = TinyTask::language();
    let follows = "without its input, and 1 are kept for what follows it; base.max_length has room";
    let instruction = format!("\"please help\" takes 6 tokens {follows} for 7");
    refused(
        &task,
        &["base.max_length=7"],
        &[
            "recipe.toml:21: stages.0.instructions.1: ",
            &instruction,
            "recipe.toml:22: stages.0.formats: ",
            // The built-in instructions of the last stage.
            "stages.2: ",
        ],
    );
    let template = format!("takes 4 tokens {follows} for 5");
    refused(
        &plain(),
        &["base.max_length=5"],
        &["recipe.toml:15: prompt: ", &template, "stages.0: "],
    );
    let texts = TinyTask::texts();
    let kept = "and 61 are kept for what follows it; base.max_length has room for 64";
    refused(&texts, &["generation.max_tokens=61"], &["prompt: ", kept]);
}

#[test]
fn wanted_texts_that_leave_no_room_for_a_prompt_are_named_by_file_and_line() {
    for file in ["fit.jsonl", "select.jsonl", "report.jsonl"] {
        let task = TinyTask::texts();
        let long = "please ".repeat(80);
        change_row(&task, file, 3, |row| row["all"] = json!([long.trim()]));
        let place = format!("{file}:3: the wanted text takes 82 tokens");
        let key = format!("data.{}: ", file.trim_end_matches(".jsonl"));
        let settings = ["data.report_shots=12"];
        refused(&task, &settings, &[&key, &place, "has room for 64"]);
    }
}

/// An example without a wanted text would have every target masked.
#[test]
fn examples_without_a_target_are_refused() {
    let task = TinyTask::texts();
    for (change, reason) in [
        (json!([""]), "empty reference"),
        (json!([]), "the example has no answer"),
        (json!(null), "is null"),
    ] {
        change_row(&task, "fit.jsonl", 2, |row| row["all"] = change);
        refused(&task, &[], &["fit.jsonl:2", reason]);
    }
}

#[test]
fn demonstrations_of_the_models_own_texts_are_refused() {
    let task = TinyTask::texts();
    refused(
        &task,
        &["stages.0.demonstrations=[{ kind = \"bootstrapped\", n = 2 }]"],
        &[
            "stages.0.demonstrations: ",
            "`bootstrapped` is for tasks with labels",
        ],
    );
}

#[test]
fn label_words_that_are_no_tokens_are_refused() {
    let task = TinyTask::language();
    // The tokenizer drops characters without width.
    task.edit_recipe("cash_fee = [\"fee\"]", "cash_fee = [\"\\u200b\"]");
    refused(
        &task,
        &[],
        &["recipe.toml:17: prompt.label_words: ", "has no tokens"],
    );
}

#[test]
fn chat_templates_that_fail_or_loop_are_refused() {
    let task = TinyTask::language();
    let generate = |options: &[&str]| {
        let mut command = hybrid();
        command
            .args(["generate", "--max-tokens", "2", "--model"])
            .arg(task.file("llama"))
            .args(options)
            .arg("my card");
        command
    };
    let looping = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    for (template, reason) in [
        (
            "{{ raise_exception('turns must alternate') }}",
            "turns must alternate",
        ),
        ("{{ messages[0].nothing.at_all }}", "undefined"),
        (looping, "fuel"),
    ] {
        let config = json!({"chat_template": template, "eos_token": "[SEP]"});
        std::fs::write(task.file("llama/tokenizer_config.json"), config.to_string()).unwrap();
        let parts = ["stages.0.formats: ", "could not render 1 messages", reason];
        refused(&task, &[], &parts);
        let said = messages(&generate(&[]).assert().code(2));
        assert!(
            said.contains(reason) && !said.contains("panicked"),
            "{said}"
        );
        generate(&["--plain"]).assert().success();
    }
    let config = json!({"chat_template": "{% for %}"}).to_string();
    std::fs::write(task.file("llama/tokenizer_config.json"), config).unwrap();
    refused(&task, &[], &["the model's chat template is not valid"]);
    let said = messages(&generate(&[]).assert().code(2));
    assert!(
        said.contains("the model's chat template is not valid"),
        "{said}"
    );
}

#[test]
fn a_model_that_ends_at_once_writes_nothing() {
    let task = TinyTask::texts();
    let all: Vec<usize> = (0..tiny_model::VOCABULARY).collect();
    let config = json!({ "eos_token_id": all }).to_string();
    std::fs::write(task.file("llama/generation_config.json"), config).unwrap();
    let generate = |option: &str| {
        let mut command = hybrid();
        command.args(["generate", option, "--model"]);
        command.arg(task.file("llama")).args(["my card", "why fee"]);
        printed(&command.assert().success())
    };
    assert_eq!(generate("--plain"), "\n\n\n");
    for line in generate("--json").lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["text"], &line["n_tokens"]), (&json!(""), &json!(1)));
        assert_eq!(line["finish"], "end_of_sequence");
    }
    task.train("a")
        .args(["--set", "stages.1.epochs=1"])
        .assert()
        .success();
    let report = crate::run_comparison::report(&task, "a");
    assert_eq!(report["final"]["value"], 0.0);
    let outputs = report["texts"]["examples"].as_array().unwrap();
    assert!(outputs.iter().all(|example| example["output"] == ""));
}

#[test]
fn logits_that_are_not_finite_stop_a_run_and_name_the_layer() {
    let decoder = (
        TinyTask::language(),
        "llama",
        "model.layers.1.mlp.down_proj.weight",
        1,
    );
    // Behind the two layers of its encoder.
    let encoder_decoder = (
        TinyTask::answers(),
        "t5",
        "decoder.block.1.layer.2.DenseReluDense.wo.weight",
        3,
    );
    for (task, model, name, layer) in [decoder, encoder_decoder] {
        let mut weights = match model {
            "t5" => tiny_model::t5_weights(),
            _ => tiny_model::llama_weights(),
        };
        weights.get_mut(name).unwrap().1.fill(f32::NAN);
        let file = task.file(model).join("model.safetensors");
        tiny_model::save(&file, &weights);
        let layer =
            format!("the logits are not finite; the first layer with such an output is {layer}");
        let said = messages(&task.train("a").assert().code(2));
        assert!(said.contains("token ") && said.contains(&layer), "{said}");
        let mut generate = hybrid();
        generate.args(["generate", "--plain", "--model"]);
        generate.arg(task.file(model)).arg("my card");
        let said = messages(&generate.assert().code(2));
        let place = "token 0 of row 0: ";
        assert!(said.contains(place) && said.contains(&layer), "{said}");
    }
}

#[test]
fn a_training_that_diverges_stops_and_names_step_and_layer() {
    for task in [TinyTask::language(), TinyTask::answers()] {
        task.edit_recipe("lr = 0.02", "lr = 1e30");
        let said = messages(&task.train("a").assert().code(1));
        let at = said.find("error: step 2: the loss is not finite");
        let at = at.unwrap_or_else(|| panic!("{said}"));
        assert!(
            said[at..].contains("first layer with such an output is "),
            "{said}"
        );
        assert!(said[at..].contains("lower the learning rate"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn choices_by_scaled_probabilities_are_for_labels() {
    let task = TinyTask::texts();
    let said = task.refusal(&["choose_by=scaled_log_loss"]);
    assert!(
        said.contains("choose_by: `scaled_log_loss` is for labels"),
        "{said}"
    );
}
