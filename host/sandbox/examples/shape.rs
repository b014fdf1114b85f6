//! Prints the largest parts of wasm files, for choosing shape limits: `cargo run -p pelton-sandbox --example shape FILE…`.

use wasmparser::{Operator, Parser, Payload};

fn main() {
    for file in std::env::args().skip(1) {
        let bytes = std::fs::read(&file).expect("the file can be read");
        let (mut functions, mut body, mut calls, mut locals, mut nesting, mut targets) = (0, 0, 0, 0, 0, 0);
        let mut custom = 0;
        for payload in Parser::new(0).parse_all(&bytes) {
            match payload.expect("the file is valid wasm") {
                Payload::CustomSection(section) => custom += section.data().len(),
                Payload::CodeSectionEntry(code) => {
                    functions += 1;
                    body = body.max(code.range().len());
                    let reader = code.get_locals_reader().expect("valid");
                    locals = locals.max(reader.into_iter().map(|group| group.expect("valid").0).sum());
                    let (mut called, mut depth) = (0, 0);
                    for operator in code.get_operators_reader().expect("valid") {
                        match operator.expect("valid") {
                            Operator::Call { .. } | Operator::CallIndirect { .. } => called += 1,
                            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                                depth += 1;
                                nesting = nesting.max(depth);
                            }
                            Operator::End => depth -= 1,
                            Operator::BrTable { targets: table } => targets += table.len(),
                            _ => {}
                        }
                    }
                    calls = calls.max(called);
                }
                _ => {}
            }
        }
        println!(
            "{file}: {} bytes, {functions} functions; largest function {body} bytes, {calls} calls, {locals} locals, \
             {nesting} nested blocks; {targets} jump targets, {custom} bytes of custom sections",
            bytes.len()
        );
    }
}
