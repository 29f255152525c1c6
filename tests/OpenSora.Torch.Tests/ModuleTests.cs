using OpenSora.Torch;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

public sealed class ModuleTests
{
    [Fact]
    public void Fields_become_components_and_the_state_dict_lists_them_in_order()
    {
        using var scope = NewDisposeScope();
        using var net = new Net();
        net.state_dict().Keys.ShouldBe(["scale", "table", "first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight"]);
        net.named_parameters().Select(p => p.name).ShouldBe(["scale", "first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight"]);
        net.named_buffers().Select(b => b.name).ShouldBe(["table"]);
        net.named_modules().Select(m => m.name).ShouldBe(["first", "blocks", "blocks.0", "blocks.1"]);
        net.get_parameter("blocks.1.weight").ShouldBeSameAs(net.blocks[1].weight);
        net.get_parameter("blocks.1.bias").ShouldBeNull();
        net.get_buffer("table").ShouldNotBeNull();
        net.has_parameter("first.bias").ShouldBeTrue();
        net.has_buffer("first.bias").ShouldBeFalse();
    }

    [Fact]
    public void A_state_dict_goes_from_one_module_to_another()
    {
        using var scope = NewDisposeScope();
        using var a = new Net();
        using var b = new Net();
        var (missing, unexpected) = b.load_state_dict(a.state_dict());
        missing.ShouldBeEmpty();
        unexpected.ShouldBeEmpty();
        foreach (var (name, tensor) in a.state_dict())
            b.state_dict()[name].allclose(tensor, 0, 0).ShouldBeTrue(name);
        var x = randn(2, 3);
        a.call(x).allclose(b.call(x), 0, 0).ShouldBeTrue();
    }

    [Fact]
    public void Loading_is_strict_about_names_and_always_about_shapes()
    {
        using var scope = NewDisposeScope();
        using var net = new Net();
        var state = new Dictionary<string, Tensor>(net.state_dict(), StringComparer.Ordinal) { ["other"] = zeros(1) };
        state.Remove("scale");
        Should.Throw<InvalidOperationException>(() => net.load_state_dict(state)).Message.ShouldSatisfyAllConditions(
            m => m.ShouldContain("Missing: [scale]"), m => m.ShouldContain("unexpected: [other]"));
        var (missing, unexpected) = net.load_state_dict(state, strict: false);
        missing.ShouldBe(["scale"]);
        unexpected.ShouldBe(["other"]);
        state["table"] = zeros(5);
        Should.Throw<ArgumentException>(() => net.load_state_dict(state, strict: false)).Message.ShouldContain("table has the shape [5], expected [3]");
    }

    [Fact]
    public void Conversion_keeps_the_objects_and_spares_integers()
    {
        using var scope = NewDisposeScope();
        using var net = new Net();
        var weight = net.get_parameter("first.weight");
        net.register_buffer("count", zeros(1, ScalarType.Int64));
        net.to(ScalarType.BFloat16).ShouldBeSameAs(net);
        net.get_parameter("first.weight").ShouldBeSameAs(weight);
        net.parameters().Select(p => p.dtype).Distinct().ShouldBe([ScalarType.BFloat16]);
        net.get_buffer("table")!.dtype.ShouldBe(ScalarType.BFloat16);
        net.get_buffer("count")!.dtype.ShouldBe(ScalarType.Int64);
        net.parameters().ShouldAllBe(p => p.requires_grad && p.is_leaf);
        net.call(randn([2, 3], ScalarType.BFloat16)).sum().backward();
        net.parameters().ShouldAllBe(p => p.grad!.dtype == ScalarType.BFloat16);
        net.to(ScalarType.Float64);
        net.parameters().ShouldAllBe(p => p.grad!.dtype == ScalarType.Float64);
    }

    [Fact]
    public void Modes_reach_every_module()
    {
        using var net = new Net();
        net.training.ShouldBeTrue();
        net.eval();
        net.modules().Append(net).ShouldAllBe(m => !m.training);
        net.train();
        net.modules().Append(net).ShouldAllBe(m => m.training);
        var seen = new List<string>();
        net.apply(m => seen.Add(m.GetName()));
        seen.ShouldBe(["Linear", "Linear", "Linear", "ModuleList", "Net"]);
    }

    [Fact]
    public void Modules_own_their_tensors_and_give_them_back()
    {
        var before = LiveTensors.Count;
        Net net;
        using (NewDisposeScope())
            net = new Net();
        using (NewDisposeScope())
            net.call(randn(2, 3)).sum().backward();
        LiveTensors.Count.ShouldBe(before + 7);
        var weight = net.get_parameter("first.weight")!;
        net.Dispose();
        net.Dispose();
        LiveTensors.Count.ShouldBe(before);
        Should.Throw<ObjectDisposedException>(() => weight.sum());
        Should.Throw<ObjectDisposedException>(() => net.call(ones(2, 3)));
    }

    [Fact]
    public void A_parameter_takes_its_tensor_over()
    {
        var before = LiveTensors.Count;
        var data = zeros(3);
        using (var parameter = new Parameter(data))
        {
            data.IsInvalid.ShouldBeTrue();
            parameter.requires_grad.ShouldBeTrue();
            parameter.is_leaf.ShouldBeTrue();
            LiveTensors.Count.ShouldBe(before + 1);
        }

        using (var frozen = new Parameter(zeros(3), requires_grad: false))
            frozen.requires_grad.ShouldBeFalse();
        LiveTensors.Count.ShouldBe(before);
    }

    [Fact]
    public void Hooks_see_and_change_what_goes_through()
    {
        using var scope = NewDisposeScope();
        using var layer = nn.Identity();
        var pre = layer.register_forward_pre_hook((_, x) => x * 2);
        var post = layer.register_forward_hook((_, _, y) => y + 1);
        layer.call(ones(1)).item<float>().ShouldBe(3);
        pre.remove();
        layer.call(ones(1)).item<float>().ShouldBe(2);
        post.remove();
        layer.call(ones(1)).item<float>().ShouldBe(1);
    }

    [Fact]
    public void Zero_grad_takes_gradients_away_or_sets_them_to_zero()
    {
        using var scope = NewDisposeScope();
        using var net = new Net();
        net.call(randn(2, 3)).sum().backward();
        net.zero_grad(set_to_none: false);
        net.parameters().ShouldAllBe(p => p.grad!.abs().sum().item<float>() == 0);
        net.zero_grad();
        net.parameters().ShouldAllBe(p => p.grad == (object?)null);
    }

    [Fact]
    public void Names_are_checked_when_components_register()
    {
        using var net = new Net();
        using var layer = nn.Identity();
        Should.Throw<ArgumentException>(() => net.register_module("a.b", layer));
        Should.Throw<ArgumentException>(() => net.register_module("", layer));
        Should.Throw<InvalidOperationException>(() => net.register_module("first", layer));
        Should.Throw<ArgumentNullException>(() => net.register_parameter("other", null!));
    }

    [Fact]
    public void A_sequence_calls_its_modules_in_order_and_leaves_nothing_behind()
    {
        using var net = nn.Sequential(("in", nn.Linear(3, 4)), ("act", nn.SiLU()), ("out", nn.Linear(4, 2)));
        net.Count.ShouldBe(3);
        net.state_dict().Keys.ShouldBe(["in.weight", "in.bias", "out.weight", "out.bias"]);
        using var x = randn(5, 3);
        var before = LiveTensors.Count;
        using (var y = net.call(x))
        {
            y.shape.ShouldBe([5, 2]);
            using (no_grad())
            using (NewDisposeScope())
            {
                var hidden = nn.functional.silu(nn.functional.linear(x, net.get_parameter("in.weight")!, net.get_parameter("in.bias")));
                nn.functional.linear(hidden, net.get_parameter("out.weight")!, net.get_parameter("out.bias")).allclose(y).ShouldBeTrue();
            }
        }

        LiveTensors.Count.ShouldBe(before);
    }

    [Fact]
    public void Lists_renumber_their_members()
    {
        using var list = nn.ModuleList(nn.Linear(1, 1), nn.Linear(2, 2), nn.Linear(3, 3));
        var gone = list[1];
        list.RemoveAt(1);
        gone.Dispose();
        list.named_children().Select(c => c.name).ShouldBe(["0", "1"]);
        list.get_parameter("1.weight")!.shape.ShouldBe([3, 3]);
        using var parameters = nn.ParameterList(new Parameter(zeros(1)), new Parameter(zeros(2)));
        parameters.state_dict().Keys.ShouldBe(["0", "1"]);
    }

    private sealed class Net : nn.Module<Tensor, Tensor>
    {
#pragma warning disable IDE1006, SA1401
        internal readonly Linear first = nn.Linear(3, 4);
        internal readonly ModuleList<Linear> blocks = nn.ModuleList(nn.Linear(4, 4), nn.Linear(4, 2, hasBias: false));
        internal readonly Parameter scale = new(ones(2));
        internal readonly Tensor table = arange(3, ScalarType.Float32);
#pragma warning restore IDE1006, SA1401

        public Net()
            : base(nameof(Net)) => RegisterComponents();

        public override Tensor forward(Tensor input)
        {
            using var scope = NewDisposeScope();
            var x = first.call(input + table);
            foreach (var block in blocks)
                x = nn.functional.gelu(block.call(x));
            return (x * scale).MoveToOuterDisposeScope();
        }
    }
}
