using OpenSora.Torch;
using TorchSharp;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace OpenSora.TorchTests;

public sealed class OptimizerTests
{
    private const double Rate = 0.01, Beta1 = 0.9, Beta2 = 0.99, Eps = 1e-8, Decay = 0.1;

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public void AdamW_follows_the_paper(bool amsgrad, bool maximize)
        => Compare(p => optim.AdamW(p, Rate, Beta1, Beta2, Eps, Decay, amsgrad, maximize), steps => new AdamByHand(decoupled: true, amsgrad, maximize).Run(steps));

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Adam_follows_the_paper(bool amsgrad)
        => Compare(p => optim.Adam(p, Rate, Beta1, Beta2, Eps, Decay, amsgrad), steps => new AdamByHand(decoupled: false, amsgrad, maximize: false).Run(steps));

    [Theory]
    [InlineData(0, 0, false)]
    [InlineData(0.9, 0.5, false)]
    [InlineData(0.9, 0, true)]
    public void Gradient_descent_follows_its_rule(double momentum, double dampening, bool nesterov)
        => Compare(p => optim.SGD(p, Rate, momentum, dampening, Decay, nesterov), steps =>
        {
            var values = Start();
            double[]? buffer = null;
            foreach (var (index, gradients) in steps.Index())
            {
                for (var i = 0; i < values.Length; i++)
                {
                    var g = gradients[i] + (Decay * values[i]);
                    if (momentum != 0)
                    {
                        buffer ??= new double[values.Length];
                        buffer[i] = index == 0 ? g : (momentum * buffer[i]) + ((1 - dampening) * g);
                        g = nesterov ? g + (momentum * buffer[i]) : buffer[i];
                    }

                    values[i] -= Rate * g;
                }
            }

            return values;
        });

    [Fact]
    public void Parameters_without_a_gradient_stay_and_count_no_step()
    {
        using var scope = NewDisposeScope();
        using var used = new Parameter(tensor(new double[] { 1, 2 }));
        using var idle = new Parameter(tensor(new double[] { 3 }));
        using var optimizer = optim.AdamW([used, idle], weight_decay: 0.5);
        (used * 2).sum().backward();
        optimizer.step();
        idle.item<double>().ShouldBe(3);
        States(optimizer).Select(s => s.step).ShouldBe([1, 0]);

        // The late one's bias correction starts with its own first step: a first step of Adam moves by the learning rate.
        optimizer.zero_grad();
        ((AdamW.ParamGroup)optimizer.ParamGroups.Single()).Options.weight_decay = 0;
        (idle * 7).sum().backward();
        optimizer.step();
        idle.item<double>().ShouldBe(3 - 1e-3, 1e-9);
        States(optimizer).Select(s => s.step).ShouldBe([1, 1]);
    }

    [Fact]
    public void State_goes_to_another_optimizer_bit_for_bit()
    {
        using var scope = NewDisposeScope();
        using var a = nn.Linear(4, 3);
        using var b = nn.Linear(4, 3);
        using var first = optim.AdamW(a.parameters(), lr: 0.02, weight_decay: 0.1);
        for (var i = 0; i < 3; i++) Train(a, first, i);
        b.load_state_dict(a.state_dict());
        using var second = optim.AdamW(b.parameters(), lr: 1);
        second.load_state_dict(first.state_dict());
        for (var i = 3; i < 6; i++)
        {
            Train(a, first, i);
            Train(b, second, i);
        }

        foreach (var (name, value) in a.state_dict())
            b.state_dict()[name].bytes.SequenceEqual(value.bytes).ShouldBeTrue(name);
        States(second).Select(s => s.step).ShouldBe([6, 6]);
        first.state_dict().State[0].ApproximatelyEquals(second.state_dict().State[0]).ShouldBeTrue();

        // The states are the optimizer's own: writing into them restores a checkpoint.
        using (no_grad()) States(second)[0].exp_avg!.zero_();
        first.state_dict().State[0].ApproximatelyEquals(second.state_dict().State[0]).ShouldBeFalse();
    }

    [Fact]
    public void A_state_of_other_parameters_is_refused()
    {
        using var scope = NewDisposeScope();
        using var a = nn.Linear(4, 3);
        using var b = nn.Linear(3, 4);
        using var c = nn.Linear(3, 4, hasBias: false);
        using var first = optim.AdamW(a.parameters());
        using var second = optim.AdamW(b.parameters());
        using var third = optim.AdamW(c.parameters());
        Should.Throw<ArgumentException>(() => second.load_state_dict(first.state_dict())).Message.ShouldContain("[3, 4]");
        Should.Throw<ArgumentException>(() => third.load_state_dict(first.state_dict())).Message.ShouldContain("[2] parameters");
    }

    [Fact]
    public void Groups_have_rates_of_their_own()
    {
        using var scope = NewDisposeScope();
        using var slow = new Parameter(ones(1, ScalarType.Float64));
        using var fast = new Parameter(ones(1, ScalarType.Float64));
        using var optimizer = optim.AdamW([new AdamW.ParamGroup([slow], new AdamW.Options { LearningRate = 0.001 }), new AdamW.ParamGroup([fast], lr: 0.1)]);
        (slow + fast).sum().backward();
        optimizer.step();
        slow.item<double>().ShouldBe(0.999, 1e-9);
        fast.item<double>().ShouldBe(0.9, 1e-7);
        optimizer.ParamGroups.Select(g => g.LearningRate).ShouldBe([0.001, 0.1]);
        Should.Throw<ArgumentException>(() => optimizer.add_param_group(new AdamW.ParamGroup([slow])));
    }

    [Fact]
    public void A_step_leaves_no_tensor_and_disposal_gives_the_states_back()
    {
        var before = LiveTensors.Count;
        using (var layer = nn.Linear(4, 3))
        {
            var optimizer = optim.AdamW(layer.parameters(), amsgrad: true);
            LiveTensors.Count.ShouldBe(before + 2 + 6);
            Train(layer, optimizer, 1);
            LiveTensors.Count.ShouldBe(before + 2 + 6);
            optimizer.Dispose();
            optimizer.Dispose();
            LiveTensors.Count.ShouldBe(before + 2);
        }

        LiveTensors.Count.ShouldBe(before);
    }

    [Fact]
    public void A_closure_gives_the_loss()
    {
        using var scope = NewDisposeScope();
        using var x = new Parameter(tensor(new double[] { 3 }));
        using var optimizer = optim.SGD([x], 0.1);
        var losses = new List<double>();
        for (var i = 0; i < 20; i++)
        {
            var loss = optimizer.step(() =>
            {
                optimizer.zero_grad();
                var y = x.square().sum();
                y.backward();
                return y;
            });
            losses.Add(loss!.item<double>());
        }

        losses[0].ShouldBe(9);
        losses.Zip(losses.Skip(1)).ShouldAllBe(pair => pair.Second < pair.First);
    }

    [Fact]
    public void Bad_options_are_refused()
    {
        using var p = new Parameter(zeros(1));
        Should.Throw<ArgumentOutOfRangeException>(() => optim.AdamW([p], lr: -1));
        Should.Throw<ArgumentOutOfRangeException>(() => optim.AdamW([p], beta1: 1));
        Should.Throw<ArgumentOutOfRangeException>(() => optim.AdamW([p], eps: double.NaN));
        Should.Throw<ArgumentOutOfRangeException>(() => optim.SGD([p], 0.1, momentum: -1));
        Should.Throw<ArgumentException>(() => optim.SGD([p], 0.1, nesterov: true));
    }

    [Fact]
    public void Clipping_scales_all_gradients_to_the_common_norm()
    {
        using var scope = NewDisposeScope();
        using var a = new Parameter(tensor(new double[] { 1, 1 }));
        using var b = new Parameter(tensor(new double[] { 1 }));
        using var idle = new Parameter(zeros(1));
        ((a * 2).sum() + (b * 1).sum()).backward();
        nn.utils.clip_grad_norm_([a, b, idle], 5).ShouldBe(3, 1e-12);
        a.grad!.data<double>().ToArray().ShouldBe([2, 2]);
        nn.utils.clip_grad_norm_([a, b, idle], 1.5).ShouldBe(3, 1e-12);
        a.grad!.data<double>().ToArray().ShouldAllBe(v => Math.Abs(v - 1) < 1e-6);
        b.grad!.item<double>().ShouldBe(0.5, 1e-6);
        nn.utils.clip_grad_norm_([a, b], 100, double.PositiveInfinity).ShouldBe(1, 1e-6);
        nn.utils.clip_grad_value_([a, b, idle], 0.75);
        a.grad!.data<double>().ToArray().ShouldBe([0.75, 0.75]);
        b.grad!.item<double>().ShouldBe(0.5, 1e-6);
        nn.utils.clip_grad_norm_([idle], 1).ShouldBe(0);
    }

    [Fact]
    public void Schedules_give_the_rates_of_their_formulas()
    {
        Rates(o => optim.lr_scheduler.LambdaLR(o, e => 1.0 / (e + 1)), 4).ShouldBe([1, 0.5, 1.0 / 3, 0.25], 1e-12);
        Rates(o => optim.lr_scheduler.StepLR(o, 2, 0.1), 5).ShouldBe([1, 1, 0.1, 0.1, 0.01], 1e-12);
        Rates(o => optim.lr_scheduler.ConstantLR(o, 0.25, 2), 4).ShouldBe([0.25, 0.25, 1, 1], 1e-12);
        Rates(o => optim.lr_scheduler.LinearLR(o, 0.2, 1, 4), 6).ShouldBe([0.2, 0.4, 0.6, 0.8, 1, 1], 1e-12);
        Rates(o => optim.lr_scheduler.CosineAnnealingLR(o, 4, 0.1), 5)
            .ShouldBe(Enumerable.Range(0, 5).Select(e => 0.1 + (0.9 * (1 + Math.Cos(Math.PI * e / 4)) / 2)), 1e-12);
        Rates(
            o => optim.lr_scheduler.SequentialLR(
                o, [optim.lr_scheduler.LinearLR(o, 0.5, 1, 2), optim.lr_scheduler.CosineAnnealingLR(o, 4)], [2]),
            6).ShouldBe([0.5, 0.75, 1, .. Enumerable.Range(1, 3).Select(e => (1 + Math.Cos(Math.PI * e / 4)) / 2)], 1e-12);
    }

    [Fact]
    public void A_schedule_can_jump_and_tells_its_rates()
    {
        using var p = new Parameter(zeros(1));
        using var optimizer = optim.SGD([p], 1);
        var schedule = optim.lr_scheduler.StepLR(optimizer, 3, 0.5);
        schedule.step(7);
        optimizer.ParamGroups.Single().LearningRate.ShouldBe(0.25);
        schedule.get_last_lr().ShouldBe([0.25]);
        Should.Throw<ArgumentException>(() => optim.lr_scheduler.SequentialLR(optimizer, [schedule], [3]));
    }

    private static double[] Rates(Func<optim.Optimizer, optim.lr_scheduler.LRScheduler> make, int count)
    {
        using var p = new Parameter(zeros(1));
        using var optimizer = optim.SGD([p], 1);
        var schedule = make(optimizer);
        var rates = new List<double>();
        for (var i = 0; i < count; i++)
        {
            rates.Add(optimizer.ParamGroups.Single().LearningRate);
            optimizer.step();
            schedule.step();
        }

        return [.. rates];
    }

    private static AdamW.State[] States(AdamW optimizer) => [.. optimizer.state_dict().State.Cast<AdamW.State>()];

    private static void Train(Linear layer, optim.Optimizer optimizer, int seed)
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator((ulong)seed);
        optimizer.zero_grad();
        layer.call(randn(8, 4, generator: generator)).square().mean().backward();
        optimizer.step();
    }

    private static double[] Start() => [0.5, -1.25, 2];

    /// <summary>Runs five steps with given gradients over two parameters and compares with the same by hand, in float64.</summary>
    private static void Compare(Func<IEnumerable<Parameter>, optim.Optimizer> make, Func<double[][], double[]> byHand)
    {
        double[][] steps = [[1, -2, 0.5], [0.25, 3, -1], [-0.5, 0.125, 2], [0, 1e-3, -4], [2, -2, 1]];
        using var scope = NewDisposeScope();
        var start = Start();
        using var a = new Parameter(tensor(start[..2]));
        using var b = new Parameter(tensor(start[2..]));
        using var optimizer = make([a, b]);
        foreach (var gradients in steps)
        {
            a.grad = tensor(gradients[..2]);
            b.grad = tensor(gradients[2..]);
            optimizer.step();
        }

        double[] result = [.. a.data<double>().ToArray(), .. b.data<double>().ToArray()];
        result.ShouldBe(byHand(steps), 1e-14);
    }

    private sealed class AdamByHand(bool decoupled, bool amsgrad, bool maximize)
    {
        public double[] Run(double[][] steps)
        {
            var values = Start();
            double[] m = new double[3], v = new double[3], largest = new double[3];
            for (var t = 1; t <= steps.Length; t++)
            {
                for (var i = 0; i < 3; i++)
                {
                    var g = maximize ? -steps[t - 1][i] : steps[t - 1][i];
                    if (decoupled) values[i] *= 1 - (Rate * Decay);
                    else g += Decay * values[i];
                    m[i] = (Beta1 * m[i]) + ((1 - Beta1) * g);
                    v[i] = (Beta2 * v[i]) + ((1 - Beta2) * g * g);
                    largest[i] = Math.Max(largest[i], v[i]);
                    var second = amsgrad ? largest[i] : v[i];
                    values[i] -= Rate * (m[i] / (1 - Math.Pow(Beta1, t))) / (Math.Sqrt(second / (1 - Math.Pow(Beta2, t))) + Eps);
                }
            }

            return values;
        }
    }
}
