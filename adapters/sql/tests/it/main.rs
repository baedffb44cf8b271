//! The program, by its command line.

mod failing_statements;
mod file_reads;
mod fixture;
mod option_effects;
mod output_formats;
mod script_input;
mod terminal_input;
