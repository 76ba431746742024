//! What the compiler says about mistakes; each case stands in `mistakes/`, with the message beside it.

#[test]
fn mistakes() {
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
