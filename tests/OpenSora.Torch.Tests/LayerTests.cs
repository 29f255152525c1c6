using OpenSora.Torch;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn.functional;

namespace OpenSora.TorchTests;

public sealed class LayerTests
{
    [Fact]
    public void Layers_start_as_those_of_PyTorch_with_the_same_seed()
    {
        using var scope = NewDisposeScope();
        Values(() => nn.Linear(2, 2)).ShouldBe([-0.005294, 0.379323, -0.581981, -0.520387, -0.272345, 0.189616], 1e-6);
        Values(() => nn.Conv2d(1, 1, 2)).ShouldBe([-0.003743, 0.268222, -0.411523, -0.36797, -0.192577], 1e-6);
        Values(() => nn.ConvTranspose2d(1, 2, (1, 2))).ShouldBe([-0.003743, 0.268222, -0.411523, -0.36797, -0.192577, 0.134079], 1e-6);
        Values(() => nn.Embedding(2, 3, padding_idx: 1)).ShouldBe([1.540996, -0.293429, -2.178789, 0, 0, 0], 1e-6);
        Values(() => nn.LayerNorm(2)).ShouldBe([1, 1, 0, 0]);
        Values(() => nn.GroupNorm(1, 2)).ShouldBe([1, 1, 0, 0]);
        Values(() => nn.LayerNorm(2, bias: false)).ShouldBe([1, 1]);
        Values(() => nn.LayerNorm(2, elementwise_affine: false)).ShouldBeEmpty();
        Values(() => nn.GroupNorm(1, 2, affine: false)).ShouldBeEmpty();
    }

    [Fact]
    public void Fillings_are_PyTorchs()
    {
        using var scope = NewDisposeScope();
        Filled(t => nn.init.xavier_uniform_(t)).ShouldBe([-0.008201, 0.587645, -0.901601, -0.806181, -0.421915, 0.293752], 1e-6);
        Filled(t => nn.init.xavier_normal_(t)).ShouldBe([0.974612, -0.185581, -1.377987, 0.359508, -0.685912, -0.884549], 1e-6);
        Filled(t => nn.init.kaiming_uniform_(t)).ShouldBe([-0.010588, 0.758646, -1.163962, -1.040775, -0.54469, 0.379232], 1e-6);
        Filled(t => nn.init.kaiming_normal_(t)).ShouldBe([1.258218, -0.239584, -1.778974, 0.464122, -0.885509, -1.141948], 1e-6);
        Filled(t => nn.init.trunc_normal_(t, 0.5, 2, -1, 1.5)).ShouldBe([0.285548, 0.922858, -0.739235, -0.618475, -0.166206, 0.607181], 1e-5);
        Filled(t => nn.init.constant_(t, 3)).ShouldBe([3, 3, 3, 3, 3, 3]);
        Filled(t => nn.init.eye_(t)).ShouldBe([1, 0, 0, 0, 1, 0]);
        Filled(t => nn.init.zeros_(nn.init.ones_(t))).ShouldBe([0, 0, 0, 0, 0, 0]);
        nn.init.calculate_gain(nn.init.NonlinearityType.LeakyReLU, 1).ShouldBe(1, 1e-12);
        nn.init.calculate_gain(nn.init.NonlinearityType.Tanh).ShouldBe(5.0 / 3);
        nn.init.CalculateFanInAndFanOut(zeros(4, 3, 2, 5)).ShouldBe((30, 40));
        Should.Throw<ArgumentException>(() => nn.init.xavier_uniform_(zeros(3)));
        var weight = new Parameter(zeros(2, 2));
        nn.init.normal_(weight).ShouldBeSameAs(weight);
        weight.requires_grad.ShouldBeTrue();
    }

    [Fact]
    public void Layers_compute_what_their_functions_do()
    {
        using var scope = NewDisposeScope();
        Tensor x = randn(2, 4, 6), picture = randn(2, 4, 5, 6), video = randn([2, 4, 3, 5, 6]);
        Same(nn.Linear(6, 3), x, (l, p) => linear(x, p("weight"), p("bias")));
        Same(nn.LayerNorm(6, eps: 1e-3), x, (l, p) => layer_norm(x, [6], p("weight"), p("bias"), 1e-3));
        Same(nn.GroupNorm(2, 4, eps: 1e-3), picture, (l, p) => group_norm(picture, 2, p("weight"), p("bias"), 1e-3));
        Same(nn.Conv1d(4, 2, 3, stride: 2, padding: 1), x, (l, p) => conv1d(x, p("weight"), p("bias"), 2, 1));
        Same(nn.Conv2d(4, 2, 3, padding: 1), picture, (l, p) => conv2d(picture, p("weight"), p("bias"), padding: [1, 1]));
        Same(nn.Conv2d(4, 2, (3, 2), stride: (1, 2), dilation: (2, 1), bias: false), picture, (l, p) => conv2d(picture, p("weight"), strides: [1, 2], dilation: [2, 1]));
        Same(nn.Conv2d(4, 4, 3, Padding.Same, groups: 2), picture, (l, p) => conv2d(picture, p("weight"), p("bias"), padding: [1, 1], groups: 2));
        Same(nn.Conv2d(4, 2, 3, Padding.Valid), picture, (l, p) => conv2d(picture, p("weight"), p("bias")));
        Same(nn.Conv2d(4, 2, 3, padding: 1, padding_mode: PaddingModes.Reflect), picture, (l, p) => conv2d(pad(picture, (1, 1, 1, 1), PaddingModes.Reflect), p("weight"), p("bias")));
        Same(nn.Conv2d(4, 2, (2, 3), Padding.Same, padding_mode: PaddingModes.Replicate), picture, (l, p) => conv2d(pad(picture, (1, 1, 0, 1), PaddingModes.Replicate), p("weight"), p("bias")));
        Same(nn.Conv3d(4, 2, (1, 2, 2), (1, 2, 2)), video, (l, p) => conv3d(video, p("weight"), p("bias"), [1, 2, 2]));
        Same(nn.Conv3d(4, 2, 3, Padding.Same), video, (l, p) => conv3d(video, p("weight"), p("bias"), padding: [1, 1, 1]));
        Same(nn.ConvTranspose2d(4, 2, 3, stride: 2, padding: 1, output_padding: 1), picture, (l, p) => conv_transpose2d(picture, p("weight"), p("bias"), [2, 2], [1, 1], [1, 1]));
        Same(nn.SiLU(), x, (l, p) => x * x.sigmoid());
        Same(nn.GELU(), x, (l, p) => x * (1 + (x / Math.Sqrt(2)).erf()) / 2);
        Same(nn.GELU(GELU.Approximate.tanh), x, (l, p) => x * (1 + (Math.Sqrt(2 / Math.PI) * (x + (0.044715 * x.pow(3)))).tanh()) / 2);
        Same(nn.ReLU(), x, (l, p) => x.clamp_min(0));
        Same(nn.LeakyReLU(0.2), x, (l, p) => torch.where(x > 0, x, x * 0.2));
        Same(nn.Tanh(), x, (l, p) => (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()));
        Same(nn.Sigmoid(), x, (l, p) => 1 / (1 + (-x).exp()));
        Same(nn.Softmax(1), x, (l, p) => x.exp() / x.exp().sum(1, keepdim: true));
        Same(nn.AvgPool2d(2), picture, (l, p) => picture.unfold(2, 2, 2).unfold(3, 2, 2).mean([4, 5]));
        Same(nn.Upsample(scale_factor: [2]), picture, (l, p) => picture.repeat_interleave(2, 2).repeat_interleave(2, 3));
        Same(nn.Identity(), x, (l, p) => x);
    }

    [Fact]
    public void A_convolution_is_a_sum_over_its_window()
    {
        using var scope = NewDisposeScope();
        Tensor x = randn(1, 2, 4, 5, dtype: float64), w = randn(3, 2, 2, 3, dtype: float64), b = randn(3, dtype: float64);
        var y = conv2d(x, w, b, [2, 1]);
        y.shape.ShouldBe([1, 3, 2, 3]);
        for (var o = 0; o < 3; o++)
        for (var i = 0; i < 2; i++)
        for (var j = 0; j < 3; j++)
            y[0, o, i, j].item<double>().ShouldBe(((x[0, .., (2 * i)..((2 * i) + 2), j..(j + 3)] * w[o]).sum() + b[o]).item<double>(), 1e-12);
    }

    [Fact]
    public void A_transposed_convolution_reaches_the_size_asked_for()
    {
        using var scope = NewDisposeScope();
        var up = nn.ConvTranspose2d(2, 3, 3, stride: 2, padding: 1);
        var x = randn(1, 2, 4, 4);
        up.forward(x, null).shape.ShouldBe([1, 3, 7, 7]);
        up.forward(x, [8, 7]).shape.ShouldBe([1, 3, 8, 7]);
        Should.Throw<ArgumentException>(() => up.forward(x, [9, 9])).Message.ShouldContain("9 by 9");
    }

    [Fact]
    public void Channels_must_fit_the_groups()
        => Should.Throw<ArgumentException>(() => nn.Conv2d(3, 4, 1, groups: 2)).Message.ShouldContain("3 and 4 channels");

    [Fact]
    public void Embedding_looks_rows_up_and_spares_the_padding_row()
    {
        using var scope = NewDisposeScope();
        using var table = nn.Embedding(4, 3, padding_idx: -1);
        var y = table.call(tensor(new long[] { 3, 0, 3 }));
        y.shape.ShouldBe([3, 3]);
        y[0].abs().sum().item<float>().ShouldBe(0);
        y[1].allclose(table.weight![0], 0, 0).ShouldBeTrue();
        (y.sum() * 2).backward();
        table.weight.grad!.sum(1).data<float>().ToArray().ShouldBe([6, 0, 0, 0]);
        using var bounded = nn.Embedding(2, 2, max_norm: 0.5);
        bounded.call(tensor(new long[] { 0, 1 })).square().sum(1).sqrt().max().item<float>().ShouldBeLessThanOrEqualTo(0.5001f);
    }

    [Fact]
    public void Dropout_scales_what_it_keeps_and_rests_in_evaluation()
    {
        using var scope = NewDisposeScope();
        manual_seed(1);
        using var drop = nn.Dropout(0.25);
        var x = ones(20000);
        var y = drop.call(x);
        y.eq(0).to(float32).mean().item<float>().ShouldBe(0.25f, 0.02f);
        y.max().item<float>().ShouldBe(4f / 3, 1e-6);
        y.mean().item<float>().ShouldBe(1, 0.02);
        drop.eval();
        drop.call(x).allclose(x, 0, 0).ShouldBeTrue();
        Should.Throw<ArgumentOutOfRangeException>(() => nn.Dropout(1.5));
    }

    [Fact]
    public void Working_in_place_changes_the_input_and_answers_with_a_view_of_it()
    {
        using var scope = NewDisposeScope();
        foreach (var layer in new nn.Module<Tensor, Tensor>[] { nn.SiLU(true), nn.ReLU(true), nn.GELU(true), nn.Tanh(true), nn.Sigmoid(true), nn.LeakyReLU(inplace: true), nn.Dropout(0.5, true) })
        {
            var x = tensor(new[] { -1.5f, 2, 3, -4 });
            var before = x.clone();
            var y = layer.call(x);
            y.allclose(x, 0, 0).ShouldBeTrue(layer.GetName());
            x.allclose(before, 0, 0).ShouldBeFalse(layer.GetName());
            y.Dispose();
            x.IsInvalid.ShouldBeFalse();
        }
    }

    [Fact]
    public void Attention_weighs_values_and_keeps_to_its_mask()
    {
        using var scope = NewDisposeScope();
        Tensor q = randn(2, 3, 4, dtype: float64), k = randn(2, 5, 4, dtype: float64), v = randn(2, 5, 6, dtype: float64);
        var scores = q.matmul(k.transpose(1, 2)) / 2;
        scaled_dot_product_attention(q, k, v).allclose(nn.functional.softmax(scores, -1).matmul(v)).ShouldBeTrue();
        var mask = tensor(new[] { true, true, false, true, false }).expand(3, 5);
        var masked = scaled_dot_product_attention(q, k, v, mask);
        masked.allclose(scaled_dot_product_attention(q, k[.., TensorIndex.Tensor(tensor(new long[] { 0, 1, 3 }))], v[.., TensorIndex.Tensor(tensor(new long[] { 0, 1, 3 }))])).ShouldBeTrue();
        var causal = scaled_dot_product_attention(k, k, v, is_casual: true);
        causal[.., 0].allclose(v[.., 0]).ShouldBeTrue();
        causal[.., 4].allclose(scaled_dot_product_attention(k, k, v)[.., 4]).ShouldBeTrue();
        Should.Throw<ArgumentException>(() => scaled_dot_product_attention(q, k, v, mask, is_casual: true));
        var before = LiveTensors.Count;
        scaled_dot_product_attention(q, k, v, mask).Dispose();
        LiveTensors.Count.ShouldBe(before);
    }

    [Fact]
    public void Padding_goes_from_the_last_dimension_on()
    {
        using var scope = NewDisposeScope();
        var x = arange(6, float32).reshape(1, 1, 2, 3);
        Floats(pad(x, (1, 0, 0, 1), value: 9)).ShouldBe([9, 0, 1, 2, 9, 3, 4, 5, 9, 9, 9, 9]);
        Floats(pad(x, (1, 1), PaddingModes.Zeros, 9)).ShouldBe([0, 0, 1, 2, 0, 0, 3, 4, 5, 0]);
        Floats(pad(x, (1, 1, 0, 0), PaddingModes.Reflect)).ShouldBe([1, 0, 1, 2, 1, 4, 3, 4, 5, 4]);
        Floats(pad(x, (1, 1, 0, 0), PaddingModes.Replicate)).ShouldBe([0, 0, 1, 2, 2, 3, 3, 4, 5, 5]);
        Floats(pad(x, (1, 1, 0, 0), PaddingModes.Circular)).ShouldBe([2, 0, 1, 2, 0, 5, 3, 4, 5, 3]);
    }

    [Fact]
    public void Interpolation_is_PyTorchs()
    {
        using var scope = NewDisposeScope();
        var x = arange(6, float32).reshape(1, 1, 2, 3);
        Floats(interpolate(x, [3])).ShouldBe([0, 1, 2, 0, 1, 2, 3, 4, 5]);
        Floats(interpolate(x, [3], mode: InterpolationMode.NearestExact)).ShouldBe([0, 1, 2, 3, 4, 5, 3, 4, 5]);
        Floats(interpolate(x, scale_factor: [1.7, 1.3], mode: InterpolationMode.Bilinear)).ShouldBe([0, 1, 2, 1.147059f, 2.147059f, 3.147059f, 2.911765f, 3.911765f, 4.911765f], 1e-5);
        Floats(interpolate(x, scale_factor: [1.7, 1.3], mode: InterpolationMode.Bilinear, recompute_scale_factor: true)).ShouldBe([0, 1, 2, 1.5f, 2.5f, 3.5f, 3, 4, 5], 1e-5);
        Floats(interpolate(x, scale_factor: [1.7, 1.3], mode: InterpolationMode.Bicubic))
            .ShouldBe([-0.359847f, 0.268139f, 1.227174f, 1.037663f, 1.66565f, 2.624686f, 2.864195f, 3.492182f, 4.451218f], 1e-5);
        Should.Throw<ArgumentException>(() => interpolate(x));
        Should.Throw<ArgumentException>(() => interpolate(x, [1, 2, 3])).Message.ShouldContain("3 values do not fit 2 dimensions");
        Should.Throw<ArgumentException>(() => interpolate(x, [2], mode: InterpolationMode.Trilinear)).Message.ShouldContain("Trilinear");
    }

    [Fact]
    public void Losses_have_the_values_of_their_definitions()
    {
        using var scope = NewDisposeScope();
        Tensor x = tensor(new[] { 1.0, 2, 4 }), y = tensor(new[] { 1.0, 4, 0 });
        mse_loss(x, y).item<double>().ShouldBe(20.0 / 3, 1e-12);
        mse_loss(x, y, nn.Reduction.Sum).item<double>().ShouldBe(20);
        mse_loss(x, y, nn.Reduction.None).data<double>().ToArray().ShouldBe([0, 4, 16]);
        l1_loss(x, y).item<double>().ShouldBe(2);
        smooth_l1_loss(x, y, beta: 4).item<double>().ShouldBe(((4.0 / 8) + (16.0 / 8)) / 3, 1e-12);
        huber_loss(x, y, 3).item<double>().ShouldBe((2 + (3 * 2.5)) / 3, 1e-12);
        var logits = tensor(new double[,] { { 0, 0 }, { 1, 3 } });
        var expected = (Math.Log(2) + Math.Log(1 + Math.Exp(2))) / 2;
        cross_entropy(logits, tensor(new long[] { 1, 0 })).item<double>().ShouldBe(expected, 1e-12);
        nll_loss(nn.functional.log_softmax(logits, 1), tensor(new long[] { 1, 0 })).item<double>().ShouldBe(expected, 1e-12);
        cross_entropy(logits, tensor(new long[] { -100, 0 })).item<double>().ShouldBe(Math.Log(1 + Math.Exp(2)), 1e-12);
        binary_cross_entropy_with_logits(tensor(new[] { 0.0 }), tensor(new[] { 1.0 })).item<double>().ShouldBe(Math.Log(2), 1e-12);
        binary_cross_entropy(tensor(new[] { 0.25 }), tensor(new[] { 1.0 })).item<double>().ShouldBe(Math.Log(4), 1e-12);
    }

    private static double[] Values(Func<nn.Module> make)
    {
        manual_seed(0);
        using var layer = make();
        return [.. layer.state_dict().Values.SelectMany(t => t.detach().flatten().to(float64).data<double>().ToArray())];
    }

    private static double[] Filled(Func<Tensor, Tensor> fill)
    {
        manual_seed(0);
        return fill(zeros(2, 3)).to(float64).data<double>().ToArray();
    }

    private static float[] Floats(Tensor tensor) => tensor.contiguous().data<float>().ToArray();

    private static void Same(nn.Module<Tensor, Tensor> layer, Tensor input, Func<nn.Module, Func<string, Tensor>, Tensor> expected)
    {
        using (layer)
        {
            foreach (var (name, parameter) in layer.named_parameters())
                nn.init.normal_(parameter);
            var result = layer.call(input);
            var wanted = expected(layer, name => layer.get_parameter(name)!);
            result.shape.ShouldBe(wanted.shape, layer.GetName());
            result.allclose(wanted, 1e-4, 1e-5).ShouldBeTrue(layer.GetName());
        }
    }
}
