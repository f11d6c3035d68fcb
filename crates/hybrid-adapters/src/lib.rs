//! Small trainable modules over a frozen base: LoRA, IA3, BitFit, heads and more, in PEFT's file format.
