using System.Globalization;

namespace OpenSora.Weights;

/// <summary>Maps from the tensor names of published files to the names in this library, for use as <see cref="LoadOptions.KeyMap"/>.</summary>
/// <remarks>Each row of a table is a pattern over the dot-separated parts of a name. <c>*</c> matches one part, which the corresponding <c>*</c> in
/// the replacement repeats; <c>~</c> in the replacement repeats a level number, counted from the other end. Parts after the pattern are kept. The
/// first matching row applies; a null replacement omits the tensor.</remarks>
internal static class KeyMaps
{
    // Stable Diffusion's own code (the ldm layout), and the attention of diffusers before 0.15.
    private static readonly (string From, string? To)[] Autoencoder =
    [
        ("*.down.*.block.*.nin_shortcut", "*.down_blocks.*.resnets.*.conv_shortcut"),
        ("*.down.*.block.*", "*.down_blocks.*.resnets.*"),
        ("*.down.*.downsample.conv", "*.down_blocks.*.downsamplers.0.conv"),
        ("*.up.*.block.*.nin_shortcut", "*.up_blocks.~.resnets.*.conv_shortcut"),
        ("*.up.*.block.*", "*.up_blocks.~.resnets.*"),
        ("*.up.*.upsample.conv", "*.up_blocks.~.upsamplers.0.conv"),
        ("*.mid.block_1", "*.mid_block.resnets.0"),
        ("*.mid.block_2", "*.mid_block.resnets.1"),
        ("*.mid.attn_1.norm", "*.mid_block.attentions.0.group_norm"),
        ("*.mid.attn_1.q", "*.mid_block.attentions.0.to_q"),
        ("*.mid.attn_1.k", "*.mid_block.attentions.0.to_k"),
        ("*.mid.attn_1.v", "*.mid_block.attentions.0.to_v"),
        ("*.mid.attn_1.proj_out", "*.mid_block.attentions.0.to_out.0"),
        ("*.norm_out", "*.conv_norm_out"),
        ("*.mid_block.attentions.*.query", "*.mid_block.attentions.*.to_q"),
        ("*.mid_block.attentions.*.key", "*.mid_block.attentions.*.to_k"),
        ("*.mid_block.attentions.*.value", "*.mid_block.attentions.*.to_v"),
        ("*.mid_block.attentions.*.proj_attn", "*.mid_block.attentions.*.to_out.0"),
    ];

    // Entries next to the autoencoder in a full Stable Diffusion checkpoint, or in a training checkpoint of the autoencoder.
    private static readonly string[] BesideAutoencoder =
    [
        "model",
        "model_ema",
        "cond_stage_model",
        "loss",
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "logvar",
        "scale_factor",
        "lvlb_weights",
    ];

    /// <summary>Creates a key map for the Stable Diffusion autoencoder. It accepts the names of diffusers, of diffusers before 2023 (query, key,
    /// value, proj_attn) and of the original code (ldm), either alone or under <c>first_stage_model.</c> in a full checkpoint, in which case the
    /// other parts are omitted.</summary>
    /// <param name="levels">The number of resolution levels of the autoencoder. The original decoder counts them from the other end.</param>
    /// <remarks>The original code stores the attention matrices as 1x1 convolutions; set <see cref="LoadOptions.AllowReshape"/> to load
    /// them.</remarks>
    public static Func<string, string?> StableDiffusionVae(int levels = 4)
    {
        const string whole = "first_stage_model.";
        return name =>
            name.StartsWith(whole, StringComparison.Ordinal) ? Rename(name[whole.Length..], Autoencoder, levels)
            : BesideAutoencoder.Contains(name.Split('.')[0], StringComparer.Ordinal) ? null
            : Rename(name, Autoencoder, levels);
    }

    /// <summary>Creates a key map for a T5 encoder saved by transformers. It omits the decoder of a full T5 model and the duplicate name of the token
    /// embedding table.</summary>
    /// <param name="names">All tensor names in the file. The token embedding table may be stored under either of its two names.</param>
    public static Func<string, string?> T5(IEnumerable<string> names)
    {
        const string table = "shared.weight",
            otherName = "encoder.embed_tokens.weight";
        var hasTable = names.Any(name => name is table || name.EndsWith("." + table, StringComparison.Ordinal));
        (string, string?)[] rows = [(otherName, hasTable ? null : table), ("decoder", null), ("lm_head", null)];
        return name => Rename(name, rows, 0);
    }

    private static string? Rename(string name, (string From, string? To)[] rows, int levels)
    {
        var parts = name.Split('.');
        foreach (var (from, to) in rows)
        {
            var pattern = from.Split('.');
            if (
                pattern.Length > parts.Length
                || pattern.Where((part, i) => part is not "*" && !string.Equals(part, parts[i], StringComparison.Ordinal)).Any()
            )
            {
                continue;
            }

            var taken = new Queue<string>(parts.Where((_, i) => i < pattern.Length && pattern[i] is "*"));
            return to is null
                ? null
                : string.Join(
                    '.',
                    to.Split('.')
                        .Select(part => part is "*" or "~" ? Counted(taken.Dequeue(), part is "~", levels) : part)
                        .Concat(parts.Skip(pattern.Length))
                );
        }

        return name;
    }

    private static string Counted(string part, bool fromTheEnd, int levels) =>
        !fromTheEnd || !int.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out var level)
            ? part
            : (levels - 1 - level).ToString(CultureInfo.InvariantCulture);
}
