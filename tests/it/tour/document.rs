//! A document with commands in it: fenced blocks of `sh`, each with what it prints in a block of `text` right behind it.

/// The fence of a block.
const FENCE: &str = "```";

/// A block of commands, and what the document says that it prints: nothing, where no block of `text` follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub commands: String,
    pub output: String,
}

enum Part<'a> {
    Prose(&'a str),
    Step(Step),
}

/// Takes a document apart, line by line; other blocks are prose.
fn parts(document: &str) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let mut lines = document.split_inclusive('\n');
    while let Some(line) = lines.next() {
        let language = line.trim_end().strip_prefix(FENCE);
        let mut block = || -> String {
            lines
                .by_ref()
                .take_while(|line| line.trim_end() != FENCE)
                .collect()
        };
        match (language, parts.last_mut()) {
            (Some("sh"), _) => parts.push(Part::Step(Step {
                commands: block(),
                output: String::new(),
            })),
            (Some("text"), Some(Part::Step(step))) if step.output.is_empty() => {
                step.output = block();
            }
            _ => parts.push(Part::Prose(line)),
        }
    }
    parts
}

/// The steps of a document.
pub fn steps(document: &str) -> Vec<Step> {
    let steps = parts(document).into_iter().filter_map(|part| match part {
        Part::Step(step) => Some(step),
        Part::Prose(_) => None,
    });
    steps.collect()
}

/// The document with these outputs in place of those it shows.
pub fn with_outputs(document: &str, outputs: &[String]) -> String {
    let mut written = String::new();
    let mut outputs = outputs.iter();
    for part in parts(document) {
        match part {
            Part::Prose(line) => written += line,
            Part::Step(step) => {
                let output = outputs.next().map_or("", String::as_str);
                written += &format!("{FENCE}sh\n{}{FENCE}\n", step.commands);
                if !output.is_empty() {
                    assert!(!output.contains(FENCE), "an output with a fence in it");
                    written += &format!("{FENCE}text\n{output}{FENCE}\n");
                }
            }
        }
    }
    written
}

#[test]
fn a_document_is_read_and_written() {
    let document = "a\n```sh\none\n```\n```text\n1\n```\nb\n```sh\ntwo\n```\n```\nplain\n```\n```text\nno output\n```\n";
    let read = steps(document);
    let step = |commands: &str, output: &str| Step {
        commands: commands.to_owned(),
        output: output.to_owned(),
    };
    assert_eq!(read, [step("one\n", "1\n"), step("two\n", "")]);
    let outputs: Vec<String> = read.into_iter().map(|step| step.output).collect();
    assert_eq!(with_outputs(document, &outputs), document);
    let changed = with_outputs(document, &[String::new(), "2\n".to_owned()]);
    assert_eq!(steps(&changed), [step("one\n", ""), step("two\n", "2\n")]);
}
