//! What would fail only after work is refused before it, with every fault and its line.

use crate::bad_input::refused;
use crate::fixtures;
use crate::tiny_model;
use crate::tiny_task::TinyTask;

/// `recipe.toml:LINE` of the first line with this text.
fn place(task: &TinyTask, text: &str) -> String {
    let recipe = std::fs::read_to_string(task.recipe()).unwrap();
    let line = recipe.lines().position(|line| line.contains(text)).unwrap();
    format!("recipe.toml:{}: ", line + 1)
}

#[test]
fn all_faults_before_a_run_are_named_with_their_lines() {
    let task = TinyTask::new();
    task.edit_recipe("max_length = 16", "max_length = 4000");
    task.edit_recipe(
        "optimizer = { kind = \"adamw\", lr = 0.01 }",
        "optimizer = { kind = \"adamw\", lr = 0.01, betas = [0.9, 1.0] }\n\
         max_grad_norm = 0.0\n\
         groups = [\n  { pattern = \"^head\" },\n  { pattern = \"(\" },\n  { pattern = \"^nothing\" },\n]",
    );
    task.edit_recipe("warmup_ratio = 0.1", "warmup_ratio = 0.1, warmup_steps = 3");
    task.edit_recipe(
        "name = \"prompt-again\"\ntemplates = [\"{{ text }}\", \"customer question: {{ text }}\"]",
        "name = \"prompt-again\"\ntemplates = [\n  \"{{ text }}\",\n  \"{{ txet }}\",\n  \"{{ text\",\n]",
    );
    let at = |text: &str, rest: &str| place(&task, text) + rest;
    let parts = [
        "recipe.toml: 8 faults".to_owned(),
        at("max_length", "base.max_length: "),
        at("betas", "stages.1.optimizer.betas: "),
        at("max_grad_norm", "stages.1.max_grad_norm: "),
        at("\"(\"", "stages.1.groups.1: "),
        at("^nothing", "stages.1.groups.2: "),
        at("warmup_steps", "stages.1.schedule: "),
        at("txet", "stages.2.templates.1: "),
        "stages.2.templates.2: ".to_owned(),
    ];
    refused(&task, &[], &parts.each_ref().map(String::as_str));
}

#[test]
fn virtual_tokens_beyond_the_positions_of_the_base_are_refused() {
    let task = TinyTask::new();
    task.edit_recipe(
        r#"{ method = "lora", r = 2, lora_alpha = 4, lora_dropout = 0.1, target_modules = ["query", "value"] }"#,
        r#"{ method = "prompt_tuning", num_virtual_tokens = 4000 }"#,
    );
    let methods = place(&task, "prompt_tuning") + "stages.1.methods: 4000 virtual tokens";
    refused(&task, &[], &[&methods, "base.max_length"]);
}

#[test]
fn a_pooling_that_the_base_lacks_is_refused() {
    let task = TinyTask::new();
    let mut weights = tiny_model::weights();
    weights.retain(|name, _| !name.contains("pooler"));
    tiny_model::save(&task.file("model/model.safetensors"), &weights);
    task.edit_recipe("epochs = 4", "head = { pooling = \"pooler\" }\nepochs = 4");
    let head = place(&task, "head = ") + "stages.1.head.pooling: this bert has no pooler";
    let set = "--set base.pooling: this bert has no pooler";
    refused(
        &task,
        &["base.pooling=pooler"],
        &["2 faults", &head, set, "`mean`"],
    );
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let task = TinyTask::new();
    let path = task.file("model/tokenizer.json");
    let mut tokenizer = fixtures::json(&path);
    let largest = tiny_model::VOCABULARY + 40;
    tokenizer["model"]["vocab"]["unheard"] = largest.into();
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let sizes = [tiny_model::VOCABULARY, largest + 1].map(|size| size.to_string());
    refused(
        &task,
        &[],
        &["model: the tokenizer needs", &sizes[0], &sizes[1]],
    );
}

#[test]
fn one_file_cannot_serve_two_splits() {
    let task = TinyTask::new();
    let select = place(&task, "select = ") + "data.select: ";
    task.edit_recipe("select = \"select.jsonl\"", "select = \"./fit.jsonl\"");
    let report = "--set data.report: ";
    refused(
        &task,
        &["data.report=fit.jsonl"],
        &[
            "2 faults",
            &select,
            report,
            "fit.jsonl is read by data.fit already",
        ],
    );
}

#[test]
fn contradictions_and_names_have_their_own_lines() {
    let task = TinyTask::new();
    task.edit_recipe("name = \"prompt-again\"", "name = \"lora\"");
    task.edit_recipe("report = ", "select_fraction = 0.2\nreport = ");
    let fraction = place(&task, "select_fraction") + "data.select_fraction: ";
    let recipe = std::fs::read_to_string(task.recipe()).unwrap();
    let second = recipe.lines().collect::<Vec<_>>();
    let line = second
        .iter()
        .rposition(|line| *line == "name = \"lora\"")
        .unwrap()
        + 1;
    let name = format!("recipe.toml:{line}: stages.2.name: ");
    refused(&task, &[], &["2 faults", &fraction, &name]);

    for name in ["../../elsewhere", "a/b", "..", ""] {
        let task = TinyTask::new();
        task.edit_recipe("name = \"tiny\"", &format!("name = {name:?}"));
        task.edit_recipe("name = \"lora\"", &format!("name = {name:?}"));
        let stage = "stages.1.name: expected letters, digits";
        refused(
            &task,
            &[],
            &["2 faults", "recipe.toml:1: name: expected letters", stage],
        );
    }
}

#[test]
fn stages_with_different_methods_and_equal_label_words_are_refused() {
    let task = TinyTask::new();
    let lora = "[{ method = \"lora\", r = 2, lora_alpha = 4, lora_dropout = 0.1, target_modules = [\"query\", \"value\"] }]";
    task.edit_recipe(
        "[[stages]]\nkind = \"prompt\"\nname = \"prompt-again\"\n",
        "[[stages]]\nkind = \"adapter\"\nname = \"other\"\nepochs = 1\nbatch_size = 4\n\
         optimizer = { kind = \"sgd\", lr = 0.1 }\nmethods = [{ method = \"bitfit\" }]\n\n\
         [[stages]]\nkind = \"prompt\"\nname = \"prompt-again\"\n\
         label_words = { card_lost = [\"money\"], cash_fee = [\"money\"] }\n",
    );
    let recipe = std::fs::read_to_string(task.recipe()).unwrap();
    assert!(recipe.contains(lora));
    let methods = place(&task, "bitfit") + "stages.2.methods: ";
    let words = place(&task, "label_words") + "stages.3.label_words: ";
    refused(
        &task,
        &[],
        &["2 faults", &methods, "`lora`", &words, "same label words"],
    );
}

#[test]
fn faults_of_label_words_given_by_hand_are_placed_there() {
    let cases = [
        ("card_lots = [\"card\"]", "`card_lots`, which is none of"),
        ("card_lost = []", "`card_lost` has no label words"),
        (
            "card_lost = [\"fee\"], cash_fee = [\"fee\"]",
            "same label words",
        ),
    ];
    for (words, part) in cases {
        let task = TinyTask::new();
        task.edit_recipe(
            "name = \"prompt-again\"\n",
            &format!(
                "name = \"prompt-again\"\nlabel_patterns = [[\"about {{{{ label }}}}\"]]\n\
                 label_words = {{ {words} }}\n"
            ),
        );
        let words = place(&task, "label_words") + "stages.2.label_words: ";
        refused(&task, &[], &["1 fault ", &words, part]);
    }
    let task = TinyTask::new();
    task.edit_recipe(
        "name = \"prompt-again\"\n",
        "name = \"prompt-again\"\nlabel_patterns = [[\"about this\"]]\n\
         label_words = { card_lost = [\"card\"] }\n",
    );
    let patterns = place(&task, "label_patterns") + "stages.2.label_patterns: ";
    refused(&task, &[], &["1 fault ", &patterns, "about this"]);
}

#[test]
fn causes_are_told() {
    let task = TinyTask::new();
    std::fs::write(task.file("bad.jsonl"), "\nnot json\n").unwrap();
    refused(
        &task,
        &["data.select=bad.jsonl"],
        &["bad.jsonl:2: not a JSON object: expected ident at line 2"],
    );
    refused(
        &task,
        &[
            "data.select=nowhere.jsonl",
            "data.report=nowhere-either.jsonl",
        ],
        &[
            "data.select: nowhere.jsonl does not exist",
            "data.report: nowhere-either.jsonl does not exist",
            "--set data.folder=FOLDER",
        ],
    );
    std::fs::write(task.file("model/tokenizer.json"), "{}").unwrap();
    refused(&task, &[], &["tokenizer.json: not a usable tokenizer: "]);
}
