using Mono.Cecil;
using OpenSora.Generation;
using OpenSora.Runtime;
using static TorchSharp.torch;

namespace OpenSora.Tests.Runtime;

/// <summary>Tests that no number is freed while libtorch reads it.</summary>
public class TensorArithmeticTests
{
    private static readonly ScalarUses Uses = new();

    public static TheoryData<string> Libraries =>
        ["OpenSora", "OpenSora.Training", "OpenSora.Preparation", "OpenSora.Cuda", "OpenSora.Extensions.AI", "OpenSora.Cli"];

    [Theory]
    [MemberData(nameof(Libraries))]
    public void Libraries_hand_no_temporary_scalar_to_native_code(string library) =>
        Uses.In(PathOf(library)).ShouldBeEmpty("use the methods of TensorArithmetic");

    [Fact]
    public void A_temporary_scalar_is_found()
    {
        var file = $"{nameof(TensorArithmeticTests)}.cs:";
        var found = Uses.In(typeof(TensorArithmeticTests).Assembly.Location).Where(use => use.Contains(file, StringComparison.Ordinal));

        found
            .Select(use => use[(use.IndexOf(" calls ", StringComparison.Ordinal) + 7)..])
            .ShouldBe(
                ["op_Addition(Tensor, Tensor)", "op_Subtraction(Tensor, Int32)", "square(Tensor)", "clamp(Scalar, Scalar)", "AdamW()"],
                ignoreOrder: true
            );
    }

    [Fact]
    public void Scalars_are_kept_until_the_operation_returns()
    {
        using var module = ModuleDefinition.ReadModule(typeof(VideoGenerator).Assembly.Location);
        var methods = module.GetType(ScalarUses.SafeClass).Methods.Where(method => method.Name is not ("Keep" or ".cctor")).ToArray();

        methods.ShouldNotBeEmpty();
        foreach (var method in methods)
        {
            var calls = ScalarUses.Calls(method).Select(call => call.Method).ToArray();
            calls.ShouldNotContain(call => ScalarUses.IsConversion(call) || Uses.Creates(call), method.FullName);
            // The scalar is the first argument of Keep and the operation is the second one.
            calls.Count(call => call.Name == "Keep").ShouldBe(method.Parameters.Count(p => p.ParameterType.Name == "Scalar"), method.FullName);
        }
    }

    [Fact]
    public void Numbers_survive_garbage_collections()
    {
        using var scope = NewDisposeScope();
        // libtorch converts whole numbers to floating-point numbers before it reads the scalar. This takes so long that a collection fits in.
        var (sum, whole, factor) = (zeros(300_000), ones(300_000, ScalarType.Int64), ones(300_000));
        using var end = new CancellationTokenSource(TimeSpan.FromSeconds(3));
        var collector = new Thread(() =>
        {
            while (!end.IsCancellationRequested)
            {
                GC.Collect(0);
                GC.WaitForPendingFinalizers();
            }
        });
        collector.Start();

        while (!end.IsCancellationRequested)
        {
            using var inner = NewDisposeScope();
            sum.zero_();
            sum.AddProductInPlace(whole, factor, 3).max().item<float>().ShouldBe(3);
            whole.Plus(factor).max().item<float>().ShouldBe(2);
        }
        collector.Join();
    }

    [Fact]
    public void OLD()
    {
        using var scope = NewDisposeScope();
        var (sum, whole, factor) = (zeros(300_000), ones(300_000, ScalarType.Int64), ones(300_000));
        using var end = new CancellationTokenSource(TimeSpan.FromSeconds(5));
        var collector = new Thread(() =>
        {
            while (!end.IsCancellationRequested)
            {
                GC.Collect(0);
                GC.WaitForPendingFinalizers();
            }
        });
        collector.Start();
        int n = 0,
            bad = 0,
            wrong = 0;
        string? first = null;
        var clock = System.Diagnostics.Stopwatch.StartNew();
        double at = 0;
        while (!end.IsCancellationRequested)
        {
            using var inner = NewDisposeScope();
            n++;
            try
            {
                sum.zero_();
                if (sum.addcmul_(whole, factor, 3).max().item<float>() != 3 || (whole + factor).max().item<float>() != 2)
                {
                    wrong++;
                }
            }
            catch (System.Runtime.InteropServices.ExternalException e)
            {
                if (bad++ == 0)
                {
                    first = e.Message;
                    at = clock.Elapsed.TotalSeconds;
                }
            }
        }
        collector.Join();
        $"{n} {bad} {wrong} {at} {first}".ShouldBe("");
    }

    // Operations that TensorArithmetic replaces; they are read and not run.
    private static Tensor Unsafe(Tensor x, Tensor y) => x + y - 1;

    private static Tensor UnsafeInside(Tensor x) => x.square();

    private static Func<Tensor, Tensor> UnsafeLambda() => x => x.clamp(0, 1);

    private static object UnsafeOptimizer() => optim.AdamW([]);

    private static Tensor Safe(Tensor x, Tensor y) => (x - y) * y / x;

    private static string PathOf(string library) => Path.Combine(AppContext.BaseDirectory, $"{library}.dll");
}
